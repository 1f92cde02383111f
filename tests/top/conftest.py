"""Machines to look at: one whose every page is known, one with devices at work, and empty ones that may be ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.world import Mount, need_mount
from tests.top.lab import Lab
from tests.top.stage import Screen, monitor
from tests.top.town import Town


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def screen(lab: Lab) -> Iterator[Screen]:
    """The lab at a usual size."""
    with monitor(lab.point) as made:
        yield made


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    need_mount()
    made = Town(tmp_path_factory.mktemp("town"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Mount]:
    """A machine with nothing in it but domain 0, which a test may stop or end."""
    mount = Mount(tmp_path / "xen")
    mount.arm()
    try:
        yield mount
    finally:
        mount.close()
