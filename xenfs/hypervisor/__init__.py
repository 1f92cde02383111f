"""The machine as a value: domains, frames, grants, event channels and one table of hypercalls.

Calls go in, results come out, and what must happen in the world (bytes of pages, events) is said through the two
Protocols of `world`. No I/O, no thread, no clock but the one passed in; so the same machine runs in a test, behind
the filesystem, and from its own trace.
"""

from xenfs.hypervisor.machine import Machine
from xenfs.hypervisor.state import Config, Limits

__all__ = ["Config", "Limits", "Machine"]
