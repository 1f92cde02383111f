"""The mounts of tests/mounted, for what is hostile to the filesystem itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.files import paths
from tests.mounted.conftest import folder, mnt, own_mnt, shared_mounts
from tests.mounted.mount import Xen

__all__ = ["files", "folder", "mnt", "own_mnt", "shared_mounts"]


@pytest.fixture
def files(mnt: Xen) -> list[Path]:
    mnt.domain(1)
    mnt.domain(2)
    return paths(mnt)
