"""The mirror of the store."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xentop.mirror import Mirror

from xenfs.domain import Refused
from xenfs.domain.inprocess import InProcessXen
from xenfs.testing import in_memory

pytestmark = pytest.mark.timeout(120)


class Town:
    """A store, and its mirror with a clock that a test sets."""

    def __init__(self, xen: InProcessXen) -> None:
        self.root = xen.domain(0)
        self.store, self.time = self.root.store, 100.0
        self.mirror = Mirror(self.store, lambda: self.time)

    def update(self, at: float) -> list[tuple[str, bytes | None]]:
        """Take what there is at that time: what is known to have changed then, of what has gone only the top."""
        self.time = at
        while self.mirror.update():
            pass
        noted = {path for path, when in self.mirror.since.items() if when == at}
        gone = {path for path in noted if not self.mirror.exists(path)}
        tops = {path for path in gone if path.rpartition("/")[0] not in gone}
        return [(path, None if path in gone else self.mirror.read(path)) for path in sorted(noted - gone | tops)]

    def same(self) -> None:
        """The mirror has what the store has."""
        assert list(self.mirror.walk()) == sorted(tree(self.store), key=lambda node: node[0].split("/"))
        for path, _, value in tree(self.store):
            assert self.mirror.read(path) == value
            assert self.mirror.exists(path)
            assert self.mirror.list(path) == tuple(sorted(self.store.list(path)))
            assert self.mirror.perms(path) == self.store.perms(path)


def tree(store: Any, path: str = "/") -> list[tuple[str, int, bytes]]:
    """Every node of a store with its depth and value."""
    below = [f"{path.rstrip('/')}/{name}" for name in store.list(path)]
    return [node for one in below for node in ((one, one.count("/"), store.read(one)), *tree(store, one))]


@pytest.fixture
def town() -> Iterator[Town]:
    with in_memory(domains=2) as xen:
        made = Town(xen)
        try:
            yield made
        finally:
            made.mirror.close()
            made.root.close()


def test_what_was_there_is_mirrored_and_no_change(town: Town) -> None:
    town.same()
    assert town.update(101) == []
    assert town.mirror.age("/local/domain/1/name") is None
    assert town.mirror.ages() == {}


def test_what_is_written_first_of_all_is_a_change(town: Town) -> None:
    town.store.write("/local/domain/1/name", "another")
    assert town.update(101) == [("/local/domain/1/name", b"another")]


def test_a_write_is_a_change_and_has_an_age(town: Town) -> None:
    town.store.write("/local/domain/1/data", "1")
    assert town.update(110) == [("/local/domain/1/data", b"1")]
    town.time = 115
    assert town.mirror.age("/local/domain/1/data") == 5
    assert town.mirror.ages() == {"/local/domain/1/data": 5}
    town.store.write("/local/domain/1/data", "1")  # says what it said before
    assert town.update(120) == []
    assert town.mirror.age("/local/domain/1/data") == 10
    town.time = 90  # somebody has set the clock
    assert town.mirror.age("/local/domain/1/data") == 0
    town.same()


def test_nodes_that_are_made_along_with_another_are_there(town: Town) -> None:
    town.store.write("/local/domain/1/device/vbd/51712/state", "1")
    above = "/local/domain/1/device/vbd"
    assert town.update(110) == [(above, b""), (f"{above}/51712", b""), (f"{above}/51712/state", b"1")]
    town.same()


def test_a_node_that_is_removed_goes_with_all_below_it(town: Town) -> None:
    town.store.write("/a/b/c", "1")
    town.update(110)
    town.store.rm("/a")
    assert town.update(120) == [("/a", None)]
    town.same()
    town.time = 123
    assert {path: town.mirror.age(path) for path in ("/a", "/a/b", "/a/b/c")} == {"/a": 3, "/a/b": 3, "/a/b/c": 3}
    for path in ("/a", "/a/b", "/a/b/c"):
        assert not town.mirror.exists(path)
        with pytest.raises(Refused) as refused:
            town.mirror.read(path)
        assert refused.value.errno == errno.ENOENT
        with pytest.raises(Refused):
            town.mirror.list(path)


def test_a_node_that_is_made_again_is_a_change_again(town: Town) -> None:
    town.store.write("/a/b", "1")
    town.update(110)
    town.store.rm("/a")
    town.update(120)
    town.store.write("/a/b", "1")
    assert town.update(130) == [("/a", b""), ("/a/b", b"1")]
    assert town.mirror.age("/a/b") == 0
    town.same()


def test_what_was_removed_and_made_otherwise_between_two_looks(town: Town) -> None:
    for path in ("/a/b/c", "/a/b/d", "/a/e/f"):
        town.store.write(path, "1")
    town.update(110)
    town.store.rm("/a")
    town.store.write("/a/b/c", "2")
    assert set(town.update(120)) == {("/a/b/c", b"2"), ("/a/b/d", None), ("/a/e", None)}
    town.same()


def test_a_subtree_that_moves(town: Town) -> None:
    for name in ("state", "ring/ref"):
        town.store.write(f"/local/domain/1/device/vif/0/{name}", name)
    town.update(110)
    for transaction in town.store.transaction():
        with transaction as tx:
            for name in ("state", "ring/ref"):
                tx.write(f"/local/domain/2/device/vif/5/{name}", name)
            tx.rm("/local/domain/1/device/vif")
    noted = town.update(120)
    assert ("/local/domain/1/device/vif", None) in noted
    assert ("/local/domain/2/device/vif/5/ring/ref", b"ring/ref") in noted
    town.same()


def test_a_transaction_that_is_given_up_is_no_change(town: Town) -> None:
    for transaction in town.store.transaction():
        with suppress(KeyError), transaction as tx:
            tx.write("/a", "1")
            raise KeyError
    assert town.update(110) == []
    town.same()


def test_values_that_are_no_text(town: Town) -> None:
    value = bytes(range(256))
    town.store.write("/a", value)
    assert town.update(110) == [("/a", value)]
    town.same()


def test_a_tree_that_is_deeper_than_python_calls(town: Town) -> None:
    path = "/d" + "/x" * 1020
    town.store.write(path, "deep")
    assert len(town.update(110)) == 1021
    assert town.mirror.read(path) == b"deep"
    assert sum(node == path for node, _, _ in town.mirror.walk()) == 1
    with town.root.xen.domain(0) as other, closing(Mirror(other.store)) as second:
        assert second.read(path) == b"deep"
    town.store.rm("/d")
    assert town.update(120) == [("/d", None)]
    assert not town.mirror.exists(path)


def test_domains_that_come_and_go(town: Town) -> None:
    xen = town.root.xen
    domid = xen.create_domain("late")
    assert (f"/local/domain/{domid}/name", b"late") in town.update(110)
    town.same()
    xen.destroy_domain(domid)
    assert (f"/local/domain/{domid}", None) in town.update(120)
    town.same()


def test_more_than_is_taken_at_once_and_more_than_is_remembered(town: Town) -> None:
    for number in range(20_000):
        town.store.write(f"/n/{number}", str(number))
    count, rounds = 0, 0
    while taken := town.mirror.update():
        count, rounds = count + taken, rounds + 1
    assert (count, rounds) == (20_000, 2)
    town.same()
    town.store.rm("/n")
    town.update(120)
    assert len(town.mirror.since) <= 2100


def test_a_node_that_goes_while_it_is_looked_at(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    town.store.write("/a/b", "1")
    town.update(110)
    listed = type(town.store).list

    def late(store: Any, path: str) -> tuple[str, ...]:
        if path == "/a" and store.exists("/a"):
            store.rm("/a")
        return listed(store, path)

    town.store.write("/a", "2")
    monkeypatch.setattr(type(town.store), "list", late)
    town.update(120)
    monkeypatch.undo()
    town.same()
    assert not town.mirror.exists("/a")


def test_a_mirror_changes_nothing(town: Town) -> None:
    def chmod() -> None:
        town.mirror.chmod("/local", ["n0"])

    changes: list[Callable[[], None]] = [
        lambda: town.mirror.write("/a", "1"), lambda: town.mirror.mkdir("/a"), lambda: town.mirror.rm("/local"), chmod,
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(Refused) as refused:
            change()
        assert refused.value.errno == errno.EROFS
    assert not town.store.exists("/a")


PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda names: "/t/" + "/".join(names))
DONE = st.lists(st.tuples(st.sampled_from(["write", "write", "rm", "mkdir", "chmod", "look"]), PATHS), max_size=40)


@settings(deadline=None)
@given(DONE)
def test_the_mirror_is_the_store_whatever_is_done_between_two_looks(done: list[tuple[str, str]]) -> None:
    with in_memory() as xen:
        made = Town(xen)
        for number, (what, path) in enumerate(done):
            with suppress(Refused):
                match what:
                    case "write":
                        made.store.write(path, str(number % 3))
                    case "chmod":
                        made.store.chmod(path, ["n0", "r0"])
                    case "look":
                        made.mirror.update()
                    case _:
                        getattr(made.store, what)(path)
        made.update(200)
        made.same()
        made.mirror.close()
        made.root.close()
