"""Xen's split-driver world on an ordinary Linux machine.

The rooms, lowest first: `abi` (bytes of the public headers), `hypervisor` (the machine as a value), `ring` (shared
rings), `domain` (what a driver imports), `testing` (an in-memory machine and mock ends for tests of drivers).
"""
