"""A machine in memory that holds its user to tidiness."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xenfs.domain.inprocess import InProcessXen
from xenfs.hypervisor import Config


class Leaked(AssertionError):
    """Something was still held at the end of a test; a line each in `held`."""

    def __init__(self, held: list[str]) -> None:
        """Say what it was."""
        super().__init__("still held at the end:\n" + "\n".join(f"  {line}" for line in held))
        self.held = held


def assert_clean(xen: InProcessXen) -> None:
    """Raise Leaked unless every handle, port, grant, mapping, frame, ring name and watch has been given back."""
    held = xen.leaks()
    if held:
        raise Leaked(held)


@contextmanager
def in_memory(domains: int = 0, config: Config | None = None) -> Iterator[InProcessXen]:
    """A machine with domains 1 to `domains`, checked for leaks at the end unless the block raised."""
    with InProcessXen(config) as xen:
        for _ in range(domains):
            xen.create_domain()
        yield xen
        assert_clean(xen)
