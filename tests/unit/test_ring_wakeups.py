"""Wake-ups, for every interleaving of a producer and a consumer that goes to sleep."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

import xenfs.ring
from tests.rings import TOP, ends, request
from xenfs.abi.ring import u32
from xenfs.ring import BackRing, FrontRing


class Stopped(BaseException):
    """Ends an actor whose run is over."""


class Actor:
    """One side in a thread of its own that advances by one shared access each time the world says so.

    `late`: its stores reach the other side only at a fence, as a store buffer may have it.
    """

    def __init__(self, world: World, late: bool, body: Callable[[Actor], None]) -> None:
        self.world, self.late, self.stores = world, late, list[tuple[int, int]]()
        self.asleep = self.finished = False
        self.turn = threading.Semaphore(0)
        self.thread = threading.Thread(target=self._run, args=(body,), daemon=True)
        self.thread.start()

    def _run(self, body: Callable[[Actor], None]) -> None:
        try:
            self.pause()
            body(self)
            self.drain()
        except Stopped:
            pass
        self.finished = True
        self.world.paused.release()

    def pause(self) -> None:
        self.world.paused.release()
        self.turn.acquire()
        if self.world.over:
            raise Stopped

    def flush(self) -> None:
        for index, value in self.stores:
            self.world.words[index] = value
        self.stores.clear()

    def __getitem__(self, index: int) -> int:
        self.pause()
        own = [value for at, value in self.stores if at == index]
        return own[-1] if own else self.world.words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self.pause()
        self.stores.append((index, value))
        if not self.late:
            self.flush()

    def drain(self) -> None:
        """A system call, or time: what is still in the store buffer gets out, but not in the same instant."""
        if self.stores:
            self.pause()
            self.flush()

    def notify(self) -> None:
        self.drain()
        self.world.bell += 1

    def sleep(self) -> None:
        self.drain()
        self.asleep = True
        self.pause()
        self.asleep = False
        self.world.bell -= 1


class World:
    """One run of a producer and a consumer under a given schedule."""

    def __init__(
        self, view: memoryview, producer: FrontRing | BackRing, send: Any, consumer: FrontRing | BackRing
    ) -> None:
        self.words = view[:16].cast("I")
        self.paused, self.bell, self.over = threading.Semaphore(0), 0, False
        self.producer, self.send, self.consumer = producer, send, consumer
        self.actors: list[Actor] = []
        self.current: Actor | None = None

    def produce(self, actor: Actor) -> None:
        self.producer._words = cast(memoryview, actor)
        for _ in range(2):
            self.send()
            if self.producer.publish():
                actor.notify()

    def consume(self, actor: Actor) -> None:
        self.consumer._words = cast(memoryview, actor)
        got = 0
        while got < 2:
            got += len(self.consumer.take())
            if got < 2 and not self.consumer.final_check():
                actor.sleep()

    def fence(self) -> None:
        if self.current is not None:
            self.current.flush()

    def run(self, schedule: list[int], late: bool) -> tuple[list[tuple[int, int]], bool]:
        """Follow `schedule`, then always the first; the choices made with their number, and whether all woke up."""
        for body in (self.produce, self.consume):
            self.actors.append(Actor(self, late, body))
            assert self.paused.acquire(timeout=30)
        choices: list[tuple[int, int]] = []
        while able := [a for a in self.actors if not a.finished and (self.bell or not a.asleep)]:
            pick = schedule[len(choices)] if len(choices) < len(schedule) else 0
            choices.append((pick, len(able)))
            self._step(able[pick])
        woke = all(a.finished for a in self.actors)
        self.over = True
        for actor in self.actors:
            if not actor.finished:
                self._step(actor)
            actor.thread.join(30)
        return choices, woke

    def _step(self, actor: Actor) -> None:
        self.current = actor
        actor.turn.release()
        assert self.paused.acquire(timeout=30)
        self.current = None


def world(responses: bool) -> World:
    view, front, back = ends(start=TOP - 1)
    if not responses:
        return World(view, front, lambda: front.push(*request(1)), back)
    front.push_many([request(1), request(2)])
    front.publish()
    back.take()
    return World(view, back, lambda: back.respond(1, 0), front)


def outcomes(responses: bool, late: bool, monkeypatch: pytest.MonkeyPatch, fenced: bool = True) -> Iterator[bool]:
    """Run every interleaving; whether the consumer got everything in each."""
    schedule: list[int] = []
    while True:
        this = world(responses)
        monkeypatch.setattr(xenfs.ring, "fence", this.fence if fenced else lambda: None)
        choices, woke = this.run(schedule, late)
        yield woke
        while choices and choices[-1][0] == choices[-1][1] - 1:
            choices.pop()
        if not choices:
            return
        schedule = [pick for pick, _ in choices[:-1]] + [choices[-1][0] + 1]


@pytest.mark.parametrize("late", [False, True], ids=["stores-at-once", "stores-at-fences"])
@pytest.mark.parametrize("responses", [False, True], ids=["requests", "responses"])
def test_no_interleaving_loses_a_wake_up(responses: bool, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(outcomes(responses, late, monkeypatch))
    assert len(found) > 50
    assert all(found)


def test_the_model_does_lose_wake_ups_without_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not all(outcomes(False, True, monkeypatch, fenced=False))


def test_the_model_does_lose_wake_ups_without_the_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(ring: BackRing) -> bool:
        ring._words[ring._own_event] = u32(ring._cons + 1)
        return False

    monkeypatch.setattr(BackRing, "final_check", hasty)
    assert not all(outcomes(False, False, monkeypatch))
