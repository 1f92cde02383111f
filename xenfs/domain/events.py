"""Event channels as a driver has them: objects that can be waited for."""

from __future__ import annotations

from typing import Protocol


class Channel(Protocol):
    """One port. Any number of events before a wait is one wake-up, and an event may come without cause."""

    @property
    def port(self) -> int:
        """The port's number in this domain."""

    def fileno(self) -> int:
        """A descriptor that polls readable while an event is pending, for epoll and asyncio."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for an event, at most `timeout` seconds, and take it; False when none came."""

    def drain(self) -> bool:
        """Take a pending event without waiting; False when there was none."""

    def notify(self) -> None:
        """Raise the peer's event. Never blocks; nothing happens while the port is unbound. EINVAL once closed."""

    def close(self) -> None:
        """Free the port; twice is fine. The peer is told nothing."""

    def __enter__(self) -> Channel: ...

    def __exit__(self, *_: object) -> None: ...


class Events(Protocol):
    """Where ports come from."""

    def alloc_unbound(self, remote_domid: int) -> Channel:
        """A port that waits for a domain, which need not exist yet. ENOSPC."""

    def bind_interdomain(self, remote_domid: int, remote_port: int) -> Channel:
        """Pair with a port that waits for this domain; an event is pending at once. ESRCH, EINVAL, ENOSPC."""

    def bind_virq(self, virq: int, vcpu: int = 0) -> Channel:
        """Hear of a virtual interrupt. EINVAL, ENOENT, EBUSY, EEXIST, ENOSPC."""

    def bind_ipi(self, vcpu: int = 0) -> Channel:
        """A port that signals itself. ENOENT, ENOSPC."""
