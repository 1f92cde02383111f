"""usbfront and usbback: a USB host controller whose ports are served by the other end (xen/io/usbif.h)."""
