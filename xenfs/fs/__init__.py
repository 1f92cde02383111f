"""The filesystem that is the hypervisor: libfuse's low-level session, inodes, and a module for each subtree."""
