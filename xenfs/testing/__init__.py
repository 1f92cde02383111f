"""For tests of one's own drivers: a machine in memory with a leak check, and mock ends for any ring.

    from xenfs.testing import in_memory

    def test_my_driver():
        with in_memory(domains=2) as xen:
            back, front = xen.domain(1), xen.domain(2)
            ...
            front.close(), back.close()

`in_memory` raises Leaked at the end when anything is still held; `MockFront` and `MockBack` are honest until told not
to be.
"""

from xenfs.testing.machine import Leaked, assert_clean, in_memory
from xenfs.testing.peers import MockBack, MockFront

__all__ = ["Leaked", "MockBack", "MockFront", "assert_clean", "in_memory"]
