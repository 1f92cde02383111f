"""xenstore as a driver has it. Paths are absolute, or relative to the domain's home `/local/domain/<domid>`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol


class Reader(Protocol):
    """What can be done in a transaction and outside of one. Errors are the store's: ENOENT, EACCES, EINVAL, ENOSPC."""

    def read(self, path: str) -> bytes:
        """A node's value."""

    def list(self, path: str) -> tuple[str, ...]:
        """Names of a node's children, in order of creation."""

    def exists(self, path: str) -> bool:
        """Whether there is such a node that may be seen."""

    def perms(self, path: str) -> tuple[str, ...]:
        """Permissions: owner with the default letter first, such as `n0`, `r3`."""

    def write(self, path: str, value: bytes | str) -> None:
        """Set a node's value, making it and its parents when missing."""

    def mkdir(self, path: str) -> None:
        """Make an empty node when missing."""

    def rm(self, path: str) -> None:
        """Remove a node with all below it; a missing node is fine when its parent exists."""

    def chmod(self, path: str, perms: Sequence[str]) -> None:
        """Set permissions."""


class Transaction(Reader, Protocol):
    """Several operations that take effect together when the block ends, or not at all when it raises."""

    def __enter__(self) -> Transaction: ...

    def __exit__(self, *_: object) -> None: ...


class Watch(Protocol):
    """Changes at a path and below it. The first event is there from the start and says: look now."""

    def fileno(self) -> int:
        """A descriptor that polls readable while an event is pending."""

    def wait(self, timeout: float | None = None) -> tuple[str, str] | None:
        """The next event's path and token, waiting at most `timeout` seconds; None when none came."""

    def close(self) -> None:
        """End the watch; twice is fine."""

    def __iter__(self) -> Iterator[tuple[str, str]]: ...


class Store(Reader, Protocol):
    """The store as one domain."""

    def transaction(self, attempts: int = 50) -> Iterator[Transaction]:
        """Try until committed: `for t in store.transaction(): with t: …`. EAGAIN after `attempts` conflicts."""

    def watch(self, path: str, token: str = "") -> Watch:
        """Begin to watch. EEXIST for the same path and token twice."""
