"""An image of another format than raw: qemu-nbd reads and writes it, for as long as this process lives."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from xenblk.nbd import SECONDS, NbdDisk

TOOL, PACKAGE = "qemu-nbd", "qemu-utils"
FORMATS = {"vhd": "vpc"}
"""What qemu calls a format, where it is not what xl calls it."""
_PR_SET_PDEATHSIG = 1
_END_SECONDS = 10.0


def _with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Served:
    """A server of one image, and the disk that it is."""

    def __init__(self, form: str, path: str, *, readonly: bool) -> None:
        """Start it. Raises OSError with the reason."""
        tool = shutil.which(TOOL)
        if tool is None:
            raise OSError(errno.ENOENT, f"{form} needs {TOOL}; to mend it: apt-get install {PACKAGE}")
        if not Path(path).exists():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        words = [tool, "--persistent", "--shared=1", "-f", FORMATS.get(form, form)]
        words += ["--discard=unmap", *(["--read-only"] if readonly else [])]
        with tempfile.TemporaryDirectory(prefix="xenblk-") as folder:  # gone when both are connected
            at, said = f"{folder}/nbd", Path(folder, "stderr")
            with said.open("wb") as stderr:
                self._process = subprocess.Popen(
                    [*words, "-k", at, path], stdin=subprocess.DEVNULL, stderr=stderr, preexec_fn=_with_parent
                )
            try:
                self.disk = self._connected(at, said, readonly=readonly)
            except BaseException:
                self._end()
                raise

    def _connected(self, at: str, said: Path, *, readonly: bool) -> NbdDisk:
        """As soon as it listens, which is a moment after its socket is there."""
        deadline = time.monotonic() + SECONDS
        while True:
            if self._process.poll() is not None:
                words = said.read_text(errors="replace").strip()
                raise OSError(errno.EIO, words.removeprefix(f"{TOOL}: ") or f"{TOOL} has ended")
            with suppress(FileNotFoundError, ConnectionError):  # one that cannot open the image hangs up before it ends
                return NbdDisk(at, readonly=readonly)
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, f"{TOOL} did not start within {SECONDS:.0f} s")
            select.select([], [], [], 0.01)

    def close(self) -> None:
        """End it, when it has written everything."""
        self.disk.close()
        self._end()

    def _end(self) -> None:
        """In order; by force where that takes too long, as when it was asked before it was ready to hear."""
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
