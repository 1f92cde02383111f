"""Bytes of Xen's public interfaces, one module per header. Imports nothing of xenfs outside this room."""
