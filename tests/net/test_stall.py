"""A guest that posts nothing: after 10 s its packets go, after 60 s its cable; both come back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from xennet.stall import Stall

from xenfs.xenbus import Loop
from xenfs.xenbus.counters import Counters


@dataclass
class Wire:
    """In place of a TAP: a pipe, of whose carrier it is only told."""

    fd: int
    plugged: list[bool] = field(default_factory=list)

    def carrier(self, on: bool) -> None:
        self.plugged.append(on)


class Clock:
    """Time that passes when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Scene:
    clock: Clock
    loop: Loop
    wire: Wire
    counters: Counters
    stall: Stall
    packets: int

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.loop.turn(0)

    def packet(self) -> None:
        os.write(self.packets, b"x" * 60)


@pytest.fixture
def scene() -> Iterator[Scene]:
    clock = Clock()
    loop = Loop(clock)
    ours, theirs = os.pipe2(os.O_NONBLOCK | os.O_DIRECT)
    wire, counters = Wire(ours), Counters(1, loop)
    yield Scene(clock, loop, wire, counters, Stall(loop, wire, counters), theirs)  # type: ignore[arg-type]
    os.close(ours)
    os.close(theirs)
    loop.close()


def test_packets_grow_old_and_the_cable_is_pulled_and_put_back(scene: Scene) -> None:
    scene.stall.begin()
    scene.packet()
    scene.pass_time(9)
    assert scene.counters.drop_no_buffer == 0
    scene.packet()
    scene.pass_time(2)
    assert scene.counters.drop_no_buffer == 2
    assert scene.wire.plugged == []
    for _ in range(60):
        scene.pass_time(1)
    assert scene.wire.plugged == [False]
    scene.stall.end()
    assert scene.wire.plugged == [False, True]


def test_a_guest_that_posts_in_time_loses_nothing(scene: Scene) -> None:
    for _ in range(100):
        scene.stall.begin()
        scene.packet()
        scene.pass_time(5)
        os.read(scene.wire.fd, 64)
        scene.stall.end()
    assert scene.counters.drop_no_buffer == 0
    assert scene.wire.plugged == []


def test_nothing_more_after_the_connection_has_ended(scene: Scene) -> None:
    scene.stall.begin()
    scene.packet()
    scene.stall.close()
    scene.pass_time(100)
    assert scene.counters.drop_no_buffer == 0
