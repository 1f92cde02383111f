"""PyUSB's backend over a handle that is none."""

from __future__ import annotations

import array
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from xenusb.pyusb import Backend
from xenusb.usbip import Submitted

PIECE = 61440


def wrote(size: int, answers: Sequence[int]) -> tuple[int, list[int]]:
    """What a write comes to when so many bytes of each piece were taken, and the sizes of the pieces."""
    left, asked = list(answers), list[int]()

    def transfer(_address: int, data: bytes, **_: object) -> Submitted:
        asked.append(len(data))
        return Submitted(1, 0, left.pop(0))

    opened: Any = SimpleNamespace(handle=SimpleNamespace(transfer=transfer))
    return Backend().bulk_write(opened, 1, 0, array.array("B", bytes(size)), 1000), asked


@pytest.mark.parametrize(
    ("size", "answers", "done"),
    [
        (0, [0], 0), (3, [3], 3), (3, [0], 0), (3, [2], 2), (PIECE + 1, [PIECE, 1], PIECE + 1),
        (PIECE + 1, [PIECE, 0], PIECE), (3 * PIECE, [PIECE, 7], PIECE + 7),
    ],
)  # fmt: skip
def test_a_piece_that_is_not_taken_whole_ends_a_write(size: int, answers: Sequence[int], done: int) -> None:
    found, asked = wrote(size, answers)
    assert (found, len(asked)) == (done, len(answers))


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    for name, why in (("nosuch.py", "No such file or directory"), ("plain/no.py", "Not a directory")):
        (tmp_path / "plain").touch()
        done = subprocess.run(
            [sys.executable, "-m", "xenusb.pyusb", name],
            capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{name}: {why}\n")
