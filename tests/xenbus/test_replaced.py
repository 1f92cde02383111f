"""A toolstack that does not wait: the device is taken away, or made anew, while its backend is in the middle of
something. What the backend does then is nothing to the device that is there now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

import pytest

from tests.xenbus.test_lives import Life, PluggedBack
from xenfs.abi.xenbus import XenbusState as S
from xenfs.domain import Refused
from xenfs.domain.inprocess import InProcessXen
from xenfs.xenbus.end import read_state


class InterruptedBack(PluggedBack):
    """A backend during whose plugging in or undoing something happens, once."""

    def hotplug(self) -> Mapping[str, object]:
        self._happens("hotplug")
        return {**super().hotplug(), "physical-device": "7:1"}

    def offer(self) -> Mapping[str, object]:
        self._happens("offer")
        return {**super().offer(), "feature-echo": 1}

    def remove(self) -> None:
        super().remove()
        self._happens("remove")

    def _happens(self, where: str) -> None:
        life = self.life
        assert isinstance(life, Interrupted)
        if where == life.where and life.happens is not None:
            happens, life.happens = life.happens, None
            happens()


class Interrupted(Life):
    where = ""
    happens: Callable[[], None] | None = None

    def __init__(self, xen: InProcessXen) -> None:
        super().__init__(xen)
        kind = cast("type[PluggedBack]", self.back).CLASS
        self.back = type("Back", (InterruptedBack,), {"CLASS": kind, "life": self})

    def keys(self) -> dict[str, str]:
        """What there is of the backend's nodes."""
        path = self.device.backend_path
        try:
            return {name: self.root.store.read(f"{path}/{name}").decode() for name in self.root.store.list(path)}
        except Refused:
            return {}


@pytest.fixture
def life() -> Iterator[Interrupted]:
    with InProcessXen() as xen:
        made = Interrupted(xen)
        try:
            yield made
        finally:
            made.close()
        assert xen.leaks() == []


@pytest.mark.parametrize("where", ["offer", "hotplug"])
def test_a_device_that_goes_while_it_is_offered_is_not_made_again(life: Interrupted, where: str) -> None:
    life.where, life.happens = where, life.remove
    life.attach()
    life.start("back")
    assert life.happens is None
    assert life.keys() == {}
    life.bury()
    assert life.ends["back"] is None
    assert life.plugged is None
    life.settle()


@pytest.mark.parametrize("where", ["hotplug", "remove"])
def test_another_device_hears_nothing_of_the_one_before(life: Interrupted, where: str) -> None:
    life.attach()
    if where == "remove":
        life.settle()
    seen: list[dict[str, str]] = []

    def replace() -> None:
        life.replace()
        seen.append(life.keys())

    life.where, life.happens = where, replace
    if where == "hotplug":
        life.start("back")
    else:
        life.detach()
        life.turn(10)
    assert [life.keys()] == seen, "neither states nor keys of the old one"
    life.bury()
    assert life.ends["back"] is None
    life.settle()


def test_a_backend_without_hotplug_ends_too_when_its_device_is_another() -> None:
    with InProcessXen() as xen:
        life = Life(xen, hotplug=False)
        try:
            life.settle()
            life.leave("front")
            life.turn(10)
            assert read_state(life.root.store, life.device.backend_path) is S.Closed
            before = life.ends["back"]
            life.replace()
            life.turn(10)
            assert before is not None
            assert before[0].done
            life.settle()
        finally:
            life.close()
        assert xen.leaks() == []
