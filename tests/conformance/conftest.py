"""The machines that the suite runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.conformance.world import InProcessWorld, Mount, MountedWorld, World
from xenfs.domain import BareDomain


class Mounts:
    """One mount for many tests; a new one after a test that left something behind."""

    def __init__(self, folder: Path) -> None:
        self._names = (folder / f"xen-{number}" for number in count())
        self._mount: Mount | None = None

    def get(self) -> Mount:
        if self._mount is None:
            self._mount = Mount(next(self._names))
        return self._mount

    def discard(self) -> None:
        mount, self._mount = self._mount, None
        if mount is not None:
            mount.close()


@pytest.fixture(scope="session")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounts]:
    found = Mounts(tmp_path_factory.mktemp("mounts"))
    yield found
    found.discard()


@contextmanager
def in_process() -> Iterator[InProcessWorld]:
    world = InProcessWorld()
    try:
        yield world
        assert world.leaks() == []
    finally:
        world.close()


@contextmanager
def on_mount(mounts: Mounts) -> Iterator[MountedWorld]:
    mount = mounts.get()
    mount.arm()
    clean = alive = False
    try:
        world = MountedWorld(mount.root)
        try:
            yield world
            assert world.leaks() == []
        finally:
            world.close()
        clean = True
    finally:
        alive = mount.rest()
        if not (alive and clean):
            mounts.discard()
    assert alive, "the daemon is dead: it died, or was killed because a call hung"


@pytest.fixture(params=["inprocess", "mounted"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A machine with domains 1 and 2."""
    mounted = request.param == "mounted"
    with on_mount(request.getfixturevalue("mounts")) if mounted else in_process() as made:
        assert [made.create_domain(), made.create_domain()] == [1, 2]
        yield made


@pytest.fixture
def mounted(mounts: Mounts) -> Iterator[MountedWorld]:
    """The machine of a mount with domains 1 and 2."""
    with on_mount(mounts) as made:
        assert [made.create_domain(), made.create_domain()] == [1, 2]
        yield made


@pytest.fixture
def own_mount(tmp_path: Path) -> Iterator[Mount]:
    """A mount for this test alone."""
    mount = Mount(tmp_path / "xen")
    mount.arm()
    yield mount
    mount.close()


@pytest.fixture
def granter(world: World) -> Iterator[BareDomain]:
    with world.domain(1) as domain:
        yield domain


@pytest.fixture
def grantee(world: World) -> Iterator[BareDomain]:
    with world.domain(2) as domain:
        yield domain
