"""What a driver gets when the hypervisor or the store says no."""

from __future__ import annotations

from xenfs.abi.grant_table import GntStatus


class Refused(OSError):
    """A call that was refused: `errno` and `strerror` as ever, and for grant operations the GNTST status."""

    def __init__(self, errno: int, text: str, status: GntStatus | None = None) -> None:
        """Keep the status beside what OSError keeps."""
        super().__init__(errno, text)
        self.status = status
