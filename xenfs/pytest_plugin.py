"""The pytest plugin: machines as fixtures, each with a leak check at its end. Loading it costs nothing until then.

def test_my_driver(xen):          # a machine in this process
def test_my_program(xen_mount):   # a machine mounted in tmp_path, for programs and processes
def test_one_domain(domain):      # a fresh domain of `xen`, entered
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xenfs.domain.inprocess.xen import InProcessDomain, InProcessXen
    from xenfs.testing.mount import MountedXen

TIMEOUT = "xenfs_timeout"
_FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The ini option."""
    parser.addini(TIMEOUT, "seconds after which the daemon of xen_mount is killed", default="60")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember whether a test failed: then what it leaves behind is no news."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call":
        item.stash[_FAILED] = report.failed


def _failed(request: pytest.FixtureRequest) -> bool:
    return bool(request.node.stash.get(_FAILED, False))


def _leaked(held: list[str]) -> None:
    from xenfs.testing.machine import Leaked

    pytest.fail(str(Leaked(held)), pytrace=False)


def _missing(reason: str) -> None:
    if os.environ.get("XENFS_REQUIRE") == "1":
        pytest.fail(f"XENFS_REQUIRE=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def xen(request: pytest.FixtureRequest) -> Iterator[InProcessXen]:
    """A machine in this process, with domain 0 only. It fails the test if anything is still held at its end."""
    from xenfs.domain.inprocess import InProcessXen

    with InProcessXen() as machine:
        yield machine
        held = machine.leaks()
    if held and not _failed(request):
        _leaked(held)


@pytest.fixture
def domain(xen: InProcessXen) -> Iterator[InProcessDomain]:
    """A fresh domain of the machine `xen`, entered: it has `memory`, `events` and `store`. Closed at the end."""
    with xen.domain(xen.create_domain()) as entered:
        yield entered


@pytest.fixture
def xen_mount(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MountedXen]:
    """A machine mounted in tmp_path for this test, with `root`, `create_domain`, `domain`, `environment(domid)`.

    Skips where nothing can be mounted, or fails with XENFS_REQUIRE=1. Its daemon is a process of its own, which is
    killed when the test is not over in `xenfs_timeout` seconds. It fails the test if anything is still held at its end,
    by whatever process, or if the daemon has died or complained.
    """
    from xenfs.commands.checks import obstacle
    from xenfs.testing.mount import Mount, MountedXen, MountFailed

    if problem := obstacle():
        _missing(problem)
    seconds = float(request.config.getini(TIMEOUT))
    try:
        mount = Mount(tmp_path / "xen")
    except MountFailed as error:
        pytest.fail(str(error), pytrace=False)
    held: list[str] = []
    answers = True
    try:
        mount.arm(seconds)
        machine = MountedXen(mount)
        yield machine
        try:
            held = machine.leaks()
        except OSError:  # it is dead, or will be in a moment
            answers = False
        machine.close()
        alive = mount.rest() and answers
    finally:
        mount.close()
    if not _failed(request):
        if not alive:
            pytest.fail(f"the daemon has died, or the test was not over in {seconds:g} s\n{mount.log()}", pytrace=False)
        if held:
            _leaked(held)
        if said := mount.log():
            pytest.fail(f"the daemon said:\n{said}", pytrace=False)
