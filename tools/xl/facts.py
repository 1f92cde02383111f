"""The machine as its files tell it, for `findings`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from xl.findings import GrantFacts, PortFacts


def _words(path: Path) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in path.read_text().split())


class MountedFacts:
    """Implements findings.Facts. Touches the mount: use it in a process that may be given up."""

    def __init__(self, point: str) -> None:
        """Of the mount at `point`."""
        self._domains = Path(point, "domains")
        self._ports: dict[int, dict[int, PortFacts]] = {}
        self._grants: dict[int, dict[int, GrantFacts]] = {}

    def domids(self) -> set[int]:
        """See Facts."""
        return {int(path.name) for path in self._domains.iterdir() if path.name.isdigit()}

    def _numbered(self, domid: int, kind: str) -> list[Path]:
        with suppress(OSError):
            return [path for path in (self._domains / str(domid) / kind).iterdir() if path.name.isdigit()]
        return []

    def ports(self, domid: int) -> dict[int, PortFacts]:
        """See Facts. Looked at once."""
        if domid not in self._ports:
            found = self._ports[domid] = {}
            for path in self._numbered(domid, "evtchn"):
                with suppress(OSError):
                    said = _words(path / "info")
                    remote = int(said.get("remote_domid", "0")), int(said.get("remote_port", "0"))
                    found[int(path.name)] = PortFacts(said["state"], *remote)
        return self._ports[domid]

    def grants(self, domid: int) -> dict[int, GrantFacts]:
        """See Facts. Looked at once."""
        if domid not in self._grants:
            found = self._grants[domid] = {}
            for path in self._numbered(domid, "grants"):
                with suppress(OSError):
                    said = _words(path / "info")
                    found[int(path.name)] = GrantFacts(int(said["domid"]), int(said["maps"]))
        return self._grants[domid]

    def rings(self, domid: int) -> list[str]:
        """See Facts."""
        with suppress(OSError):
            return sorted(path.name for path in (self._domains / str(domid) / "rings").iterdir())
        return []

    def ring(self, domid: int, name: str) -> bytes | None:
        """See Facts."""
        with suppress(OSError):
            return (self._domains / str(domid) / "rings" / name).read_bytes()
        return None
