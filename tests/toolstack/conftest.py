"""The stage for tests of the toolstack."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.world import need_mount
from tests.toolstack.stage import Stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    need_mount()
    with tempfile.TemporaryDirectory(prefix="xenfs-stage-") as folder:
        Path(folder).chmod(0o755)
        made = Stage(Path(folder))
        try:
            yield made
        finally:
            made.close()
