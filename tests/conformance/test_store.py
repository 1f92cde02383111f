"""The store as drivers use it, in a machine of whichever kind."""

from __future__ import annotations

import errno
import selectors
import threading
from collections.abc import Iterator

import pytest

from tests.conformance.refusals import refusal
from tests.conformance.world import World
from xenfs.domain import Domain


@pytest.fixture
def dom0(world: World) -> Iterator[Domain]:
    with world.domain(0) as domain:
        yield domain
        for node in SCRATCH:
            domain.store.rm(node)


@pytest.fixture
def guest(world: World) -> Iterator[Domain]:
    with world.domain(1) as domain:
        yield domain


SCRATCH = ("/a", "/b", "/n", "/here", "/there", "/x", "/w", "/wide", "/secret", "/t", "/tool/b", "/tool/c")
"""Nodes that tests make: a mount goes on with the next test."""


def test_values_are_bytes_and_lists_in_order_of_creation(dom0: Domain) -> None:
    store = dom0.store
    store.write("/tool/b", "two words")
    store.write("/tool/a", b"\0\xff")
    store.mkdir("/tool/c")
    assert store.list("/tool")[-3:] == ("b", "a", "c")
    assert (store.read("/tool/b"), store.read("/tool/a"), store.read("/tool/c")) == (b"two words", b"\0\xff", b"")
    store.rm("/tool/a")
    store.rm("/tool/a")
    assert store.list("/tool")[-2:] == ("b", "c")
    assert not store.exists("/tool/a")


@pytest.mark.parametrize("path", ["", "/a/", "//a", "/a//b", "/a b", "/a*", "a*", "/" + "x" * 3073, "/\0", "/é"])
def test_what_is_no_path_is_refused(dom0: Domain, path: str) -> None:
    for call in (dom0.store.read, dom0.store.mkdir, dom0.store.rm, dom0.store.list):
        with refusal(errno.EINVAL):
            call(path)


def test_missing_nodes_and_the_root(dom0: Domain) -> None:
    for call in (dom0.store.read, dom0.store.list, dom0.store.perms):
        with refusal(errno.ENOENT):
            call("/no/such")
    with refusal(errno.ENOENT):
        dom0.store.rm("/no/such/node")
    with refusal(errno.EINVAL):
        dom0.store.rm("/")


def test_relative_paths_are_below_the_home(dom0: Domain, guest: Domain) -> None:
    guest.store.write("data/x", "1")
    assert dom0.store.read("/local/domain/1/data/x") == b"1"
    assert dom0.store.perms("/local/domain/1/data/x") == ("n1",)


def test_a_guest_sees_and_writes_only_what_it_may(dom0: Domain, guest: Domain) -> None:
    dom0.store.write("/secret", "1")
    for path in ("/secret", "/no/such", "/local/domain/2/data"):
        with refusal(errno.EACCES):
            guest.store.read(path)
    with refusal(errno.EACCES):
        guest.store.write("name", "me")
    with refusal(errno.EPERM):
        guest.store.chmod("data", ["n2"])
    with refusal(errno.EACCES):
        guest.store.chmod("/secret", ["n1"])
    for bad in ([], ["x1"], ["n"], ["n-1"], ["n\u0661"]):
        with refusal(errno.EINVAL):
            guest.store.chmod("data", bad)
    guest.store.chmod("data", ["n1", "r2"])
    assert guest.store.perms("data") == ("n1", "r2")


def test_a_transaction_is_all_or_nothing(dom0: Domain) -> None:
    store = dom0.store
    for transaction in store.transaction():
        with transaction as t:
            t.write("/a", "1")
            t.write("/b", "2")
            assert t.read("/a") == b"1"
            assert not store.exists("/a")
    assert (store.read("/a"), store.read("/b")) == (b"1", b"2")


def test_a_transaction_that_raises_leaves_nothing(dom0: Domain) -> None:
    def abandoned() -> None:
        for transaction in dom0.store.transaction():
            with transaction as t:
                t.write("/c", "3")
                raise KeyError

    with pytest.raises(KeyError):
        abandoned()
    assert not dom0.store.exists("/c")


@pytest.mark.parametrize("change", ["value", "sibling", "removal", "creation"])
def test_a_transaction_that_met_a_change_is_tried_again(dom0: Domain, change: str) -> None:
    store = dom0.store
    store.write("/n/v", "1")
    tries = 0
    for transaction in store.transaction():
        tries += 1
        with transaction as t:
            old = t.read("/n/v") if t.exists("/n/v") else b"none"
            missing = t.exists("/n/new")
            t.write("/n/out", old + (b"+" if missing else b""))
            if tries == 1:
                {
                    "value": lambda: store.write("/n/v", "2"),
                    "sibling": lambda: store.write("/n/other", ""),
                    "removal": lambda: store.rm("/n/v"),
                    "creation": lambda: store.write("/n/new", ""),
                }[change]()
    assert tries == 2
    assert store.read("/n/out") == {"value": b"2", "sibling": b"1", "removal": b"none", "creation": b"1+"}[change]


def test_a_change_elsewhere_is_no_conflict(dom0: Domain) -> None:
    store = dom0.store
    store.write("/here/x", "1")
    store.write("/there/x", "1")
    tries = 0
    for transaction in store.transaction():
        tries += 1
        with transaction as t:
            t.write("/here/x", t.read("/here/x") + b"!")
            store.write("/there/x", str(tries))
    assert tries == 1


def test_a_transaction_that_never_fits_gives_up(dom0: Domain) -> None:
    store = dom0.store
    store.write("/x", "0")
    tries = 0
    with refusal(errno.EAGAIN):
        for transaction in store.transaction(attempts=3):
            tries += 1
            with transaction as t:
                t.read("/x")
                store.write("/x", "other")
    assert tries == 3


def test_a_watch_begins_with_an_event_and_tells_of_changes_below(dom0: Domain) -> None:
    watch = dom0.store.watch("/w", "token")
    assert watch.wait(0) == ("/w", "token")
    assert watch.wait(0) is None
    dom0.store.write("/w/a/b", "1")
    dom0.store.mkdir("/w/a")
    dom0.store.chmod("/w/a", ["n0", "r1"])
    dom0.store.write("/wide", "1")
    assert [watch.wait(0) for _ in range(3)] == [("/w/a/b", "token"), ("/w/a", "token"), None]
    watch.close()
    watch.close()


def test_removing_a_tree_tells_ancestors_once_and_the_removed_each(dom0: Domain) -> None:
    store = dom0.store
    store.write("/w/a/b", "1")
    store.write("/w/a/c", "1")
    above, inside, deep = (store.watch(path) for path in ("/w", "/w/a", "/w/a/b"))
    for watch in (above, inside, deep):
        watch.wait(0)
    store.rm("/w/a")
    assert [above.wait(0), above.wait(0)] == [("/w/a", ""), None]
    assert [inside.wait(0), inside.wait(0)] == [("/w/a", ""), None]
    assert [deep.wait(0), deep.wait(0)] == [("/w/a/b", ""), None]


def test_a_relative_watch_tells_relative_paths(guest: Domain, dom0: Domain) -> None:
    watch = guest.store.watch("device")
    assert watch.wait(0) == ("device", "")
    dom0.store.write("/local/domain/1/device/vif/0/state", "1")
    assert watch.wait(0) == ("device/vif/0/state", "")


def test_a_watch_tells_nothing_that_its_owner_may_not_read(guest: Domain, dom0: Domain) -> None:
    watch = guest.store.watch("/")
    assert watch.wait(0) == ("/", "")
    dom0.store.write("/secret/x", "1")
    dom0.store.rm("/secret")
    assert watch.wait(0) is None
    guest.store.write("data", "1")
    assert watch.wait(0) == ("/local/domain/1/data", "")


def test_a_transaction_fires_its_watches_at_the_end(dom0: Domain) -> None:
    watch = dom0.store.watch("/t")
    watch.wait(0)
    for transaction in dom0.store.transaction():
        with transaction as t:
            t.write("/t/x", "1")
            assert watch.wait(0) is None
    assert watch.wait(0) == ("/t/x", "")


def test_the_same_watch_twice_is_refused(dom0: Domain) -> None:
    watch = dom0.store.watch("/x", "t")
    with refusal(errno.EEXIST):
        dom0.store.watch("/x", "t")
    with selectors.DefaultSelector() as selector:
        selector.register(watch, selectors.EVENT_READ)
        assert selector.select(0)
    watch.close()
    dom0.store.watch("/x", "t").close()


def test_a_watch_that_cannot_be_is_refused(guest: Domain) -> None:
    with refusal(errno.EINVAL):
        guest.store.watch("//")
    watches = [guest.store.watch("data", str(n)) for n in range(50)]
    for watch in watches:
        assert watch.wait(0) is not None
        watch.close()


def test_a_long_list_and_a_long_value(dom0: Domain) -> None:
    for n in range(600):
        dom0.store.write(f"/n/child-{n:05}", "")
    assert dom0.store.list("/n") == tuple(f"child-{n:05}" for n in range(600))
    dom0.store.write("/n", b"x" * 4000)
    assert dom0.store.read("/n") == b"x" * 4000


def test_threads_share_a_store(dom0: Domain) -> None:
    dom0.store.write("/n/count", "0")

    def count() -> None:
        for _ in range(10):
            for transaction in dom0.store.transaction(attempts=1000):
                with transaction as t:
                    t.write("/n/count", str(int(t.read("/n/count")) + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert dom0.store.read("/n/count") == b"40"


def test_a_domain_that_goes_takes_its_home_along(world: World, dom0: Domain) -> None:
    watch = dom0.store.watch("@releaseDomain")
    assert watch.wait(0) == ("@releaseDomain", "")
    domid = world.create_domain()
    assert dom0.store.read(f"/local/domain/{domid}/name") == f"domain-{domid}".encode()
    dom0.store.write("/n/theirs", "1")
    dom0.store.chmod("/n/theirs", [f"n{domid}"])
    world.destroy_domain(domid)
    assert not dom0.store.exists(f"/local/domain/{domid}")
    assert not dom0.store.exists("/n/theirs")
    assert watch.wait(1) == ("@releaseDomain", "")
