"""Mounts for tests: one that is shared while it stays clean, and one for a test that will break it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.conftest import Mounts
from tests.conformance.world import Mount
from tests.mounted.mount import Xen


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Where mounts are made: other users may enter it."""
    path = Path(tempfile.mkdtemp(prefix="xenfs-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def shared_mounts(folder: Path) -> Iterator[Mounts]:
    found = Mounts(folder)
    yield found
    found.discard()


@pytest.fixture
def mnt(shared_mounts: Mounts) -> Iterator[Xen]:
    """A machine with domain 0 only. Afterwards nothing of the test's may be left, and nothing unforeseen be logged."""
    mount = shared_mounts.get()
    mount.arm()
    xen = Xen(mount)
    before, alive, clean = xen.log(), False, False
    try:
        yield xen
        xen.close()
        clean = xen.log() == before
    finally:
        log, alive = xen.log(), mount.rest()
        if not (alive and clean):
            xen.abandon()
            shared_mounts.discard()
    assert alive, f"the daemon is dead: it died, or was killed because a call hung\n{log}"
    assert clean, f"the daemon complains:\n{log}"


ABORTED = "fuse: reading device: Software caused connection abort\n"
"""What libfuse says when a mount is ended under it while it reads, which a test may do."""


@pytest.fixture
def own_mnt(folder: Path) -> Iterator[Xen]:
    """A machine for this test alone, which may end it as it likes."""
    own = Path(tempfile.mkdtemp(dir=folder))
    own.chmod(0o755)
    mount = Mount(own / "xen")
    mount.arm()
    xen = Xen(mount)
    try:
        yield xen
    finally:
        xen.abandon()
        mount.close()
        assert xen.log() in ("", ABORTED)
