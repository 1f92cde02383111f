"""Group X of the hostile inputs, against the store itself: guests that lie, hoard, storm and die.

X18 to X20 are about what drivers make of values; they come with xenbus.
"""

from __future__ import annotations

import struct
import time

import pytest

from tests.unit.store import Land, Peer, messages
from xenfs.abi.xs_wire import XsType as T
from xenfs.xenstore.connection import EVENTS, OUTSTANDING
from xenfs.xenstore.wire import Message

OK = b"OK\0"


@pytest.fixture
def land() -> Land:
    return Land()


@pytest.fixture
def root(land: Land) -> Peer:
    return land.peer(0)


@pytest.fixture
def guest(land: Land) -> Peer:
    return land.peer(1)


def works(land: Land) -> None:
    """The toolstack goes on, whatever a guest has done."""
    root = land.peer(0)
    tx = int(root.ask(T.TRANSACTION_START, b"\0").rstrip(b"\0"))
    assert root.ask(T.WRITE, b"/local/domain/2/device/vif/0/state\x001", tx) == OK
    assert root.ask(T.WRITE, b"/local/domain/0/backend/vif/2/0/state\x001", tx) == OK
    assert root.ask(T.TRANSACTION_END, b"T\0", tx) == OK
    assert root.ask(T.WATCH, b"/local/domain/2\0toolstack\0") == OK
    assert root.ask(T.READ, b"/local/domain/2/device/vif/0/state\0") == b"1"


@pytest.mark.parametrize("size", [4097, 1 << 31, (1 << 32) - 1])
def test_x1_a_header_that_lies_about_its_length_ends_the_connection(land: Land, guest: Peer, size: int) -> None:
    guest.connection.feed(struct.pack("<IIII", T.READ, 0, 0, size))
    assert guest.connection.broken
    guest.connection.feed(Message(T.READ, 0, 0, b"name\0").emit())
    assert guest.heard() == []
    works(land)


@pytest.mark.parametrize("kind", [15, 16, 20, 0xFFFF])
def test_x1_unknown_types_are_answered(guest: Peer, kind: int) -> None:
    assert guest.ask(kind, b"name\0") == b"ENOSYS"


def test_x1_a_body_that_dribbles_and_one_that_never_comes(land: Land, guest: Peer) -> None:
    for byte in Message(T.WRITE, 7, 0, b"data/x\0slow").emit():
        guest.connection.feed(bytes([byte]))
    assert guest.heard() == [("WRITE", OK)]
    guest.connection.feed(Message(T.WRITE, 7, 0, b"data/x\0half").emit()[:-2])
    assert guest.heard() == []
    works(land)


PATHS = (b"", b"//", b"/a/", b"..", b"/..", b"a\x01", b"/" + b"x" * 3073, b"y" * 2049, b"/local/domain/", b"/\xff")


@pytest.mark.parametrize("path", PATHS)
def test_x2_what_is_no_path_is_refused_by_every_request(land: Land, guest: Peer, path: bytes) -> None:
    for kind, rest in (
        (T.READ, b""),
        (T.WRITE, b"v"),
        (T.MKDIR, b""),
        (T.RM, b""),
        (T.DIRECTORY, b""),
        (T.GET_PERMS, b""),
    ):
        assert guest.ask(kind, path + b"\0" + rest) == b"EINVAL"
    assert guest.ask(T.WATCH, path + b"\0t\0") == b"EINVAL"
    assert guest.ask(T.SET_PERMS, path + b"\0n1\0") == b"EINVAL"
    works(land)


def test_x2_special_names_are_not_a_guests_to_read_or_open(guest: Peer) -> None:
    assert guest.ask(T.READ, b"@releaseDomain\0") == b"EINVAL"
    assert guest.ask(T.SET_PERMS, b"@releaseDomain\0n0\0r1\0") == b"EACCES"


def test_x3_a_list_too_long_for_a_message_comes_in_parts(root: Peer) -> None:
    names = [b"child-%05d" % n for n in range(1000)]
    for name in names:
        assert root.ask(T.WRITE, b"/many/" + name + b"\0") == OK
    assert root.ask(T.DIRECTORY, b"/many\0") == b"E2BIG"
    found, generations = b"", set()
    while not found.endswith(b"\0\0"):
        answer = root.ask(T.DIRECTORY_PART, b"/many\0%d\0" % len(found))
        assert len(answer) <= 4096
        generation, _, part = answer.partition(b"\0")
        generations.add(generation)
        found += part
    assert found.split(b"\0")[:-2] == names
    assert len(generations) == 1
    assert root.ask(T.DIRECTORY_PART, b"/many\x00999999\0") == generation + b"\0\0"


def test_x4_a_watch_on_the_root_tells_a_guest_only_what_it_may_read(root: Peer, guest: Peer) -> None:
    assert guest.ask(T.WATCH, b"/\0all\0") == OK
    guest.heard()
    root.ask(T.WRITE, b"/secret/key\0")
    root.ask(T.SET_PERMS, b"/secret/key\0n0\0r2\0")
    root.ask(T.RM, b"/secret\0")
    assert guest.heard() == []
    root.ask(T.WRITE, b"/open\0")
    root.ask(T.SET_PERMS, b"/open\0r0\0")
    assert guest.heard() == [("WATCH_EVENT", b"/open\0all\0")]
    root.ask(T.SET_PERMS, b"/open\0n0\0")  # it may still hear that it may no longer
    assert guest.heard() == [("WATCH_EVENT", b"/open\0all\0")]
    root.ask(T.WRITE, b"/open\0more")
    assert guest.heard() == []


def test_x5_an_event_too_long_for_a_message_is_dropped(root: Peer, guest: Peer) -> None:
    token = b"t" * 4000
    assert guest.ask(T.WATCH, b"data\0" + token + b"\0") == OK
    guest.heard()
    root.ask(T.WRITE, b"/local/domain/1/data/" + b"x" * 1000 + b"\0")
    assert guest.heard() == []
    assert guest.ask(T.READ, b"name\0") == b"domain-1"


def test_x6_a_storm_on_one_node_is_one_event_for_who_does_not_read(root: Peer, guest: Peer) -> None:
    root.ask(T.WATCH, b"/local/domain/1/device\0t\0")
    root.heard()
    for n in range(20_000):
        assert guest.ask(T.WRITE, b"device/state\0%d" % n) == OK
    assert root.heard() == [("WATCH_EVENT", b"/local/domain/1/device/state\0t\0")]
    guest.ask(T.WRITE, b"device/state\0last")
    assert len(root.heard()) == 1


def test_x7_requests_stop_being_taken_when_answers_are_not_read(land: Land, guest: Peer) -> None:
    guest.connection.feed(Message(T.READ, 7, 0, b"name\0").emit() * 1000)
    assert len(messages(guest.connection.peek(1 << 20))) == OUTSTANDING
    assert guest.heard() == [("READ", b"domain-1")] * 1000
    works(land)


def test_x7_who_never_reads_its_events_is_cut_off(land: Land, root: Peer, guest: Peer) -> None:
    guest.ask(T.WATCH, b"data\0t\0")
    written = 0
    while not guest.connection.broken:
        path = b"/local/domain/1/data/%0900d/%0900d" % (written % 10, written)
        assert root.ask(T.WRITE, path + b"\0") == OK
        written += 1
        assert written * 1800 < EVENTS * 3
    assert guest.heard() != []
    works(land)


def test_x8_every_quota_at_once_leaves_the_toolstack_working(land: Land, guest: Peer) -> None:
    made = 0
    while (answer := guest.ask(T.WRITE, b"data/%d/n%d\0" % (made // 100, made) + bytes(1500))) == OK:
        made += 1
    assert answer == b"ENOSPC"
    assert made == 1000 - 3 - 10  # data, device and error are its own too, and what lies between
    assert guest.ask(T.WRITE, b"data/0/n0\0" + bytes(2016)) == b"ENOSPC"
    assert guest.ask(T.WRITE, b"data/0/n0\0" + bytes(2015)) == OK
    watches = 0
    while (answer := guest.ask(T.WATCH, b"data\0%d\0" % watches)) == OK:
        watches += 1
    assert (answer, watches) == (b"E2BIG", 129)
    transactions = []
    while (answer := guest.ask(T.TRANSACTION_START, b"\0")).rstrip(b"\0").isdigit():
        transactions.append(int(answer.rstrip(b"\0")))
    assert (answer, len(transactions)) == (b"ENOSPC", 11)
    said = [guest.ask(T.READ, b"data/none%d\0" % n, transactions[0]) for n in range(1100)]
    assert said.index(b"ENOSPC") in (1022, 1023)
    assert guest.ask(T.TRANSACTION_END, b"T\0", transactions[0]) == b"ENOMEM"
    held = [
        guest.ask(T.WRITE, b"data/%d/n%d\0" % (n // 100, n) + bytes(2000), tx)
        for tx in transactions[1:]
        for n in range(500)
    ]
    assert b"ENOMEM" in held
    assert guest.ask(T.SET_PERMS, b"data\0n1\0" + b"r2\0" * 5) == b"ENOSPC"
    works(land)
    for tx in transactions[1:]:
        assert guest.ask(T.TRANSACTION_END, b"F\0", tx) == OK
    assert guest.ask(T.RM, b"data/0/n5\0") == OK
    assert guest.ask(T.WRITE, b"data/again\0") == OK


def test_x9_made_and_removed_in_one_transaction(land: Land, root: Peer) -> None:
    root.ask(T.WATCH, b"/\0t\0")
    root.heard()
    tx = int(root.ask(T.TRANSACTION_START, b"\0").rstrip(b"\0"))
    root.ask(T.WRITE, b"/x/y\0", tx)
    root.ask(T.RM, b"/x\0", tx)
    root.send(T.TRANSACTION_END, b"T\0", tx)
    assert root.heard() == [("TRANSACTION_END", OK)]
    assert root.ask(T.READ, b"/x\0") == b"ENOENT"
    assert root.ask(T.RM, b"/\0") == b"EINVAL"
    works(land)


def test_x9_a_tree_as_deep_as_a_path_is_long(root: Peer) -> None:
    path = b"/d" * 1000
    assert root.ask(T.WRITE, path + b"\0bottom") == OK
    assert root.ask(T.READ, path + b"\0") == b"bottom"
    assert root.ask(T.RM, b"/d\0") == OK
    assert root.ask(T.READ, path + b"\0") == b"ENOENT"


def test_x9_a_guest_that_removes_its_home_has_lost_it(land: Land, guest: Peer) -> None:
    assert guest.ask(T.RM, b"/local/domain/1\0") == b"EACCES"
    assert guest.ask(T.RM, b"data\0") == OK
    assert guest.ask(T.WRITE, b"data/x\0") == b"EACCES"
    works(land)


def test_x10_nodes_cannot_be_given_away_nor_the_root_taken(land: Land, guest: Peer) -> None:
    assert guest.ask(T.SET_PERMS, b"data\0n0\0") == b"EPERM"
    assert guest.ask(T.SET_PERMS, b"data\0n2\0") == b"EPERM"
    for path in (b"/", b"/local/domain/1", b"/local/domain/2/data"):
        assert guest.ask(T.SET_PERMS, path + b"\0n1\0") == b"EACCES"
    works(land)


def test_x11_a_creation_that_fails_leaves_nothing(land: Land, guest: Peer) -> None:
    before = dict(land.store.tree.nodes)
    owned = dict(land.store.tree.owned)
    deep = b"data/" + b"/".join(b"d%d" % n for n in range(200))
    land.store.quotas["nodes"] = 100
    assert guest.ask(T.WRITE, deep + b"\0") == b"ENOSPC"
    assert guest.ask(T.WRITE, b"data/a/b/c\0" + bytes(2048)) == b"ENOSPC"
    assert guest.ask(T.WRITE, b"data/" + b"n" * 2030 + b"\0") == b"ENOSPC"  # too long for its parent's list
    assert land.store.tree.nodes == before
    assert land.store.tree.owned == owned


def test_x12_the_next_domain_of_a_number_inherits_nothing(land: Land, root: Peer, guest: Peer) -> None:
    root.ask(T.WRITE, b"/shared\0secret")
    root.ask(T.SET_PERMS, b"/shared\0n0\0r1\0")
    root.ask(T.WRITE, b"/theirs/x\0")
    root.ask(T.SET_PERMS, b"/theirs\0n1\0")
    guest.ask(T.WATCH, b"/shared\0t\0")
    assert guest.ask(T.READ, b"/shared\0") == b"secret"
    guest.heard()
    land.homes.gone(1)
    assert root.ask(T.READ, b"/theirs/x\0") == b"ENOENT"
    land.homes.came(1, "another")
    stranger = land.peer(1)
    assert stranger.ask(T.READ, b"/shared\0") == b"EACCES"
    root.ask(T.WRITE, b"/shared\0more")  # not revived by a write either
    assert stranger.ask(T.READ, b"/shared\0") == b"EACCES"
    assert guest.heard() == []
    assert land.store.tree.owned[1] == 3


def test_x13_the_toolstack_commits_through_a_guests_storm(land: Land, root: Peer, guest: Peer) -> None:
    """What a guest changes conflicts only with who looked at that; the toolstack's own nodes are not a guest's."""
    commits = 0
    for n in range(200):
        tx = int(root.ask(T.TRANSACTION_START, b"\0").rstrip(b"\0"))
        root.ask(T.WRITE, b"/local/domain/0/backend/vif/1/0/state\0%d" % n, tx)
        guest.ask(T.WRITE, b"device/vif/0/state\0%d" % n)
        guest.ask(T.WRITE, b"data/%d\0" % n)
        commits += root.ask(T.TRANSACTION_END, b"T\0", tx) == OK
    assert commits == 200
    works(land)


def test_x14_reset_watches_ends_transactions_too_and_twice_is_fine(guest: Peer) -> None:
    tx = int(guest.ask(T.TRANSACTION_START, b"\0").rstrip(b"\0"))
    guest.ask(T.WATCH, b"data\0t\0")
    guest.send(T.READ, b"name\0")
    guest.send(T.RESET_WATCHES, b"\0", tx)
    guest.send(T.RESET_WATCHES, b"\0")
    answers = [said for said in guest.heard() if said[0] != "WATCH_EVENT"]
    assert answers == [("READ", b"domain-1"), ("RESET_WATCHES", OK), ("RESET_WATCHES", OK)]
    assert guest.ask(T.READ, b"name\0", tx) == b"ENOENT"
    assert guest.ask(T.UNWATCH, b"data\0t\0") == b"ENOENT"


def test_x15_a_domain_released_while_others_are_told_of_it(land: Land, root: Peer, guest: Peer) -> None:
    for _ in range(3):
        assert root.ask(T.WATCH, b"@releaseDomain\0%d\0" % id(object())) in (OK, b"EEXIST")
    guest.ask(T.WATCH, b"/\0t\0")
    guest.ask(T.WRITE, b"data/a/b\0")
    assert root.ask(T.RELEASE, b"1\0") == OK
    assert root.ask(T.RELEASE, b"1\0") == b"ENOENT"
    assert guest.ask(T.READ, b"data/a/b\0") == b"ENOENT"
    works(land)


def test_x16_half_a_message_is_forgotten_with_its_connection(land: Land, guest: Peer) -> None:
    guest.connection.feed(Message(T.WRITE, 7, 0, b"data/x\0never").emit()[:20])
    guest.connection.close()
    again = land.peer(1)
    assert again.ask(T.READ, b"data/x\0") == b"ENOENT"
    assert again.ask(T.WRITE, b"data/x\0now") == OK


def test_x17_what_the_toolstack_keeps_is_not_a_guests(root: Peer, guest: Peer) -> None:
    for path in (b"/libxl/1/device/vif/0/backend", b"/local/domain/0/backend/vif/1/0/mac"):
        root.ask(T.WRITE, path + b"\0mine")
        assert guest.ask(T.WRITE, path + b"\0theirs") == b"EACCES"
        assert guest.ask(T.RM, path + b"\0") == b"EACCES"
        assert guest.ask(T.SET_PERMS, path + b"\0n1\0") == b"EACCES"
        assert root.ask(T.READ, path + b"\0") == b"mine"


def test_values_come_back_as_they_were_whatever_they_are(root: Peer, guest: Peer) -> None:
    for value in (b"", b"-1", b"1e9", b"0x10", b"x" * 1900, b"\xff\xfe", bytes(range(256))):
        assert guest.ask(T.WRITE, b"device/ring-ref\0" + value) == OK
        assert root.ask(T.READ, b"/local/domain/1/device/ring-ref\0") == value


def test_a_large_store_is_not_slower(land: Land, root: Peer) -> None:
    """Not a timed test: the number of nodes must not be walked by a request; a thousand times more would show."""
    for n in range(30_000):
        land.store.write(root.connection.client, f"/big/{n % 100}/{n}", b"")
    began = time.monotonic()
    for _ in range(2_000):
        tx = int(root.ask(T.TRANSACTION_START, b"\0").rstrip(b"\0"))
        root.ask(T.WRITE, b"/small\0x", tx)
        assert root.ask(T.TRANSACTION_END, b"T\0", tx) == OK
    assert time.monotonic() - began < 20
