"""Random lives of a device: ends that die, start and leave, a toolstack that comes and goes, peers that scribble.

Whatever happened, once both ends run and nobody disturbs them, they are connected, and requests come back."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xenecho.back import EchoBack
from xenecho.front import EchoFront

from tests.xenbus.toolstack import ask_to_detach, attach, remove
from xenfs.abi.xenbus import XenbusState as S
from xenfs.domain import Domain, Refused
from xenfs.domain.inprocess import InProcessXen
from xenfs.xenbus import Device, DeviceClass, Loop
from xenfs.xenbus.end import End, read_state
from xenfs.xenbus.errors import LocalDeviceError

STATES = ["", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "99", "-1", "four", "\x7f"]


class PluggedBack(EchoBack):
    """A backend that has something on the host, of which there can be one only."""

    life: ClassVar[Life]

    def hotplug(self) -> Mapping[str, object]:
        if self.life.plugged is not None:
            raise LocalDeviceError("it is there already", errno.EBUSY)
        self.life.plugged = self
        return {}

    def remove(self) -> None:
        if self.life.plugged is self:
            self.life.plugged = None

    def set_state(self, state: S, without: str = "") -> bool:
        done = super().set_state(state, without)
        if state is S.Closed:
            self.life.back_closed()
        return done


class Life:
    """A machine with one device."""

    def __init__(self, xen: InProcessXen, *, after: bool = False, hotplug: bool = True, hasty: bool = False) -> None:
        """A hasty toolstack takes the device away as soon as the backend says that it may, and makes another there."""
        self.xen, self.loop, self.said, self.hasty = xen, Loop(), list[str](), hasty
        self.plugged: PluggedBack | None = None
        self.guest = xen.create_domain()
        self.device = Device("echo", self.guest, 0)
        self.root = xen.domain(0)
        self.ends: dict[str, tuple[End, Domain] | None] = {"front": None, "back": None}
        kind = DeviceClass("echo", EchoFront.CLASS.keys, after=after, hotplug=hotplug, says_closing=not after)
        self.front = type("Front", (EchoFront,), {"CLASS": kind, "pause": 0.0})
        self.back = type("Back", (PluggedBack,), {"CLASS": kind, "life": self})
        self.attached = False

    def turn(self, count: int = 1) -> None:
        for _ in range(count):
            self.loop.turn(0)

    def start(self, which: str) -> None:
        if not self.attached or self.ends[which] is not None:
            return
        if which == "front":
            domain = self.xen.domain(self.guest)
            end: End = self.front(domain, 0, loop=self.loop, log=self.said.append)
        else:
            domain = self.xen.domain(0)
            end = self.back(domain, self.guest, 0, loop=self.loop, log=self.said.append)
        self.ends[which] = end, domain
        end.start()

    def kill(self, which: str) -> None:
        """What kill -9 leaves: nothing but the states in the store."""
        found, self.ends[which] = self.ends[which], None
        if found is not None:
            found[0].close()
            found[1].close()
            if found[0] is self.plugged:
                self.plugged = None

    def leave(self, which: str) -> None:
        found = self.ends[which]
        if found is not None:
            found[0].leave()

    def attach(self) -> None:
        if not self.attached:
            attach(self.root.store, self.device)
            self.attached = True

    def detach(self) -> None:
        ask_to_detach(self.root.store, self.device)

    def remove(self) -> None:
        remove(self.root.store, self.device)
        self.attached = False

    def replace(self) -> None:
        """Before either end looks."""
        self.remove()
        self.attach()

    def back_closed(self) -> None:
        if self.attached and self.root.store.read(f"{self.device.backend_path}/online") == b"0":
            assert self.plugged is None
            assert not self.root.store.exists(f"{self.device.backend_path}/hotplug-status")
            if self.hasty:
                self.replace()

    def scribble(self, which: str, key: str, value: str) -> None:
        path = self.device.frontend_path if which == "front" else self.device.backend_path
        if self.attached:
            self.root.store.write(f"{path}/{key}", value)

    def bury(self) -> None:
        """Ends that are done go."""
        for which, found in self.ends.items():
            if found is not None and found[0].done:
                assert found[0] is not self.plugged
                self.kill(which)

    def settle(self) -> None:
        """Both run, nobody disturbs them: they are connected, and it works."""
        self.bury()
        if self.attached:
            online = self.root.store.read(f"{self.device.backend_path}/online")
            if online != b"1" or not self.root.store.exists(f"{self.device.frontend_path}/state"):
                self.remove()
        self.attach()
        self.turn(20)
        for _ in range(400):
            self.bury()
            for which in self.ends:
                self.start(which)
            self.loop.turn(0.02)
            ends = [found[0] for found in self.ends.values() if found is not None]
            if len(ends) == 2 and all(end.state is S.Connected for end in ends):
                front = ends[0]
                assert isinstance(front, EchoFront)
                before = front.count
                for _ in range(400):
                    self.loop.turn(0.02)
                    if front.count > before + 2:
                        return
        pytest.fail(
            f"{[found and (found[0], found[0].state, found[0].other_state) for found in self.ends.values()]}"
            f" {self.said[-5:]}"
        )

    def close(self) -> None:
        self.remove()
        self.turn(10)
        assert all(found is None or found[0].done for found in self.ends.values())
        for which in self.ends:
            self.kill(which)
        self.root.close()
        self.loop.close()


ends = st.sampled_from(["front", "back"])
actions = st.one_of(
    st.tuples(st.just("turn"), st.integers(1, 6)),
    st.tuples(st.sampled_from(["start", "kill", "leave"]), ends),
    st.tuples(st.sampled_from(["attach", "detach", "remove", "replace"])),
    st.tuples(st.just("scribble"), ends, st.just("state"), st.sampled_from(STATES)),
    st.tuples(
        st.just("scribble"),
        ends,
        st.sampled_from(["ring-ref", "event-channel"]),
        st.sampled_from(["", "-1", "8", "1e9"]),
    ),
)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(after=st.booleans(), hotplug=st.booleans(), hasty=st.booleans(), story=st.lists(actions, max_size=25))
def test_two_ends_always_find_each_other_again(
    after: bool, hotplug: bool, hasty: bool, story: list[tuple[str, str]]
) -> None:
    with InProcessXen() as xen:
        life = Life(xen, after=after, hotplug=hotplug, hasty=hasty)
        try:
            life.attach()
            for name, *arguments in [("start", "front"), ("start", "back"), *story]:
                with suppress(Refused):
                    getattr(life, name)(*arguments)
                life.turn()
                life.bury()
            life.settle()
        finally:
            life.close()
        assert xen.leaks() == []


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("how", ["detach", "replace"])
def test_another_device_where_one_was_is_plugged_in_anew(after: bool, how: str) -> None:
    with InProcessXen() as xen:
        life = Life(xen, after=after, hasty=True)
        try:
            for _ in range(3):
                life.settle()
                first = life.plugged
                getattr(life, how)()
                life.settle()
                assert life.plugged is not first
        finally:
            life.close()
        assert xen.leaks() == []


@pytest.mark.parametrize("hotplug", [False, True])
def test_a_backend_ends_with_its_device_also_when_another_is_in_its_place(*, hotplug: bool) -> None:
    with InProcessXen() as xen:
        life = Life(xen, hotplug=hotplug)
        try:
            life.settle()
            before = life.ends["back"]
            life.replace()
            life.settle()
            assert life.ends["back"] is not before
        finally:
            life.close()
        assert xen.leaks() == []


@pytest.mark.parametrize("error", [LocalDeviceError("it sticks"), OSError(errno.EIO, "it sticks")])
@pytest.mark.parametrize("how", ["detach", "leave"])
def test_what_cannot_be_undone_is_said_and_the_device_closed(how: str, error: Exception) -> None:
    with InProcessXen() as xen:
        life = Life(xen)

        def stick(_: object) -> None:
            raise error

        life.back.remove = stick  # type: ignore[attr-defined]
        try:
            life.settle()
            life.plugged = None
            if how == "leave":
                life.leave("back")
            else:
                ask_to_detach(life.root.store, life.device)
            life.turn(40)
            assert life.root.store.read(f"{life.device.backend_path}/state") == b"6"
            assert any("it sticks" in line for line in life.said)
        finally:
            life.close()


def test_pages_that_cannot_all_be_shared_are_idle_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with InProcessXen() as xen:
        domain = xen.domain(xen.create_domain(frames=16))
        front = EchoFront(domain, 0, log=lambda _: None)

        def refuse(*_: object, **__: object) -> list[int]:
            raise Refused(errno.ENOSPC, "no grant is left")

        with monkeypatch.context() as patch:
            patch.setattr(domain.memory, "grant", refuse)
            for _ in range(3):
                with pytest.raises(Refused, match="no grant is left"):
                    front.share_pages(8, keep=True)
        _, frames, refs = front.share_pages(8, keep=True)
        assert (len(frames), len(refs)) == (8, 8)
        front.close()
        domain.close()
        assert xen.leaks() == []


@pytest.mark.parametrize("after", [False, True])
def test_a_backend_that_begins_when_the_device_is_to_go_takes_leave_of_its_frontend(after: bool) -> None:
    with InProcessXen() as xen:
        life = Life(xen, after=after)
        try:
            life.settle()
            life.kill("back")
            life.scribble("back", "online", "0")
            life.start("back")
            life.turn(20)
            assert read_state(life.root.store, life.device.backend_path) is S.Closed
            assert read_state(life.root.store, life.device.frontend_path) is S.Closed
        finally:
            life.close()
        assert xen.leaks() == []
