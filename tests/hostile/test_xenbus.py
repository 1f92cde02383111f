"""Guests that lie in xenstore (adversarial.md, X17 to X20): the backend says what is wrong, closes, and comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from xl import spec

from tests.xenbus.test_lives import Life
from xenfs.abi.xenbus import XenbusState as S
from xenfs.domain import Refused
from xenfs.domain.inprocess import InProcessXen
from xenfs.xenbus import OtherEnd, PeerProtocolError
from xenfs.xenbus.classes import VIF
from xenfs.xenbus.end import read_state
from xenfs.xenbus.keys import Writer

BAD = ["", "-1", "1e9", "0x10", "9" * 1900, " 8", "8 ", "eight", "\xff\xfe", "4294967296", "٣"]


@pytest.fixture
def life() -> Iterator[Life]:
    with InProcessXen() as xen:
        made = Life(xen, after=False)
        made.attach()
        yield made
        made.close()
        assert xen.leaks() == []


def connect(life: Life) -> None:
    life.settle()
    life.said.clear()


def as_guest(life: Life, name: str, value: bytes | str) -> None:
    guest = life.xen.domain(life.guest)
    guest.store.write(f"device/echo/0/{name}", value)
    guest.close()


def error(life: Life) -> str:
    return life.root.store.read("error/backend/echo/1/0/error").decode()


def back(life: Life) -> S | None:
    return read_state(life.root.store, life.device.backend_path)


@pytest.mark.parametrize("key", ["backend", "backend-id", "mac", "tty", "trusted", "frontend", "online"])
def test_x17_what_the_guest_rewrites_is_not_what_counts(life: Life, key: str) -> None:
    connect(life)
    as_guest(life, key, "/local/domain/0/backend/vif/9/9")
    life.turn(5)
    assert back(life) is S.Connected
    assert life.said == []
    life.root.store.write(f"{life.device.libxl_path}/backend", life.device.backend_path)
    assert spec.attached(life.root.store, life.guest, "echo") == [life.device]


@pytest.mark.parametrize("key", ["ring-ref", "event-channel"])
def test_x17_a_ring_that_changes_while_connected_is_connected_anew_or_refused(life: Life, key: str) -> None:
    connect(life)
    as_guest(life, key, "77")
    as_guest(life, "state", "4")
    life.turn(5)
    assert key in " ".join(life.said) or "77" in " ".join(life.said)
    life.settle()


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("key", ["ring-ref", "event-channel"])
def test_x18_a_malformed_key_is_named_and_the_device_closes(life: Life, key: str, value: str) -> None:
    life.start("back")
    life.turn(3)
    good = {"ring-ref": "8", "event-channel": "1", key: value}
    for name, said in good.items():
        as_guest(life, name, said.encode("utf-8", "surrogateescape"))
    as_guest(life, "state", "4")
    life.turn(5)
    assert back(life) is S.Closing
    assert f"{life.device.frontend_path}/{key} = " in error(life)
    assert len(error(life)) < 1100
    life.settle()
    with pytest.raises(Refused):
        error(life)


@pytest.mark.parametrize("key", ["ring-ref", "event-channel"])
def test_x18_a_missing_key_is_named(life: Life, key: str) -> None:
    life.start("back")
    life.turn(3)
    as_guest(life, {"ring-ref": "event-channel", "event-channel": "ring-ref"}[key], "1")
    as_guest(life, "state", "4")
    life.turn(5)
    assert error(life) == f"2 {life.device.frontend_path}/{key} is missing"
    life.settle()


@pytest.mark.parametrize("queues", ["0", "1000000", "-1", "2"])
def test_x19_queues_that_were_not_offered_are_refused(queues: str) -> None:
    with InProcessXen() as xen:
        root = xen.domain(0)
        for name, value in {"tx-ring-ref": "8", "rx-ring-ref": "9", "multi-queue-num-queues": queues}.items():
            root.store.write(f"front/{name}", value)
        with pytest.raises(PeerProtocolError, match="multi-queue-num-queues"):
            OtherEnd(root.store, "front").read(VIF.written_by(Writer.frontend))
        root.close()


@pytest.mark.parametrize("jump", ["0", "2", "3", "7", "8", "9", "99", "", "x", "-1", "4\0", "04"])
def test_x20_an_illegal_state_closes_the_device_and_says_so(life: Life, jump: str) -> None:
    connect(life)
    life.kill("front")
    as_guest(life, "state", jump)
    life.turn(3)
    assert back(life) in (S.Closing, S.Closed)
    if jump != "0":
        assert "while we are Connected" in error(life)
    life.settle()


@pytest.mark.parametrize(
    "states", [["1"], ["6", "4"], ["5", "1", "4"], ["4", "1", "4", "1"], ["6", "2", "3", "4"] * 20]
)
def test_x20_jumps_and_flapping_end_defined(life: Life, states: str) -> None:
    connect(life)
    life.kill("front")
    for state in states:
        as_guest(life, "state", state)
        life.turn(2)
    assert back(life) is not S.Connected
    life.settle()


def test_x20_a_frontend_that_removes_its_directory_is_let_go(life: Life) -> None:
    connect(life)
    life.kill("front")
    life.root.store.rm(life.device.frontend_path)
    life.turn(5)
    assert back(life) is S.Closed
    assert life.xen.machine.state.domains[0].maps == {}
