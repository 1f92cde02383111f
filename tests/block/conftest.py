"""One yard for tests that leave it as it was; those that kill have one of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from xenblk.loopdev import CONTROL

from tests.block.yard import Yard
from tests.need import missing, need_tool


def need_loop() -> None:
    """Root, and loop devices."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    if not Path(CONTROL).exists():
        missing(f"{CONTROL} is not there: modprobe loop")
    need_tool("mkfs.ext4", "e2fsprogs")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    made = Yard(tmp_path_factory.mktemp("yard"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    made = Yard(tmp_path_factory.mktemp("yard"))
    try:
        yield made
    finally:
        made.close()
