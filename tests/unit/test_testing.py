"""The kit for tests of drivers: it must fail a test that leaves something behind."""

from __future__ import annotations

import os

import pytest

from xenfs.domain.inprocess import InProcessXen
from xenfs.testing import Leaked, assert_clean, in_memory


def test_a_clean_test_passes() -> None:
    with in_memory(domains=3) as xen:
        assert sorted(xen.machine.state.domains) == [0, 1, 2, 3]
        with xen.domain(3) as domain:
            domain.memory.alloc()
        assert_clean(xen)


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("frame", "frame 4096 of domain 1"),
        ("grant", "grant 8 of domain 1"),
        ("port", "port 1 of domain 1"),
        ("watch", "watch data 'token'"),
        ("nothing", "handle 1 of domain 1"),
    ],
)
def test_what_is_left_is_named(what: str, named: str) -> None:
    def careless() -> None:
        with in_memory(domains=1) as xen:
            domain = xen.domain(1)
            frames = domain.memory.alloc() if what in ("frame", "grant") else []
            if what == "grant":
                domain.memory.grant(frames, 0)
            elif what == "port":
                domain.events.alloc_unbound(0)
            elif what == "watch":
                domain.store.watch("data", "token")

    with pytest.raises(Leaked) as caught:
        careless()
    assert named in caught.value.held
    assert f"\n  {named}" in str(caught.value)


def test_a_failing_test_keeps_its_own_reason() -> None:
    def failing() -> None:
        with in_memory(domains=1) as xen:
            xen.domain(1).memory.alloc()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()


def test_a_machine_that_ends_closes_what_is_open_in_it() -> None:
    with InProcessXen() as xen:
        domain = xen.domain(0)
        channel = domain.events.bind_ipi()
    assert not domain.alive
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(channel.fileno())
