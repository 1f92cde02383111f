"""domains/N/dev/: Xen's device nodes, by ioctl, read, write and poll."""
