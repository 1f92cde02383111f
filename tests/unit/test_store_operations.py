"""What is done with the store, told to whoever follows: as operations, as lines, and for people."""

from __future__ import annotations

import json

import pytest

from xenfs.commands.trace import readable
from xenfs.xenstore.client import Client
from xenfs.xenstore.errors import StoreError
from xenfs.xenstore.operation import Operation
from xenfs.xenstore.store import Store

TIME = 1_700_000_000_250_000_000


class Followed:
    """A store of which everything is told."""

    def __init__(self) -> None:
        self.store = Store()
        self.store.domain_came(1)
        self.told: list[Operation] = []
        self.store.operated = self.told.append
        self.root, self.guest = (self.store.connect(Client(domid, lambda *_: None)) for domid in (0, 1))

    def lines(self) -> list[dict[str, object]]:
        """What was told since the last time, without the time."""
        found = [json.loads(one.line(TIME)) for one in self.told]
        assert all(said.pop("time") == TIME for said in found)
        self.told.clear()
        return found


@pytest.fixture
def made() -> Followed:
    return Followed()


def said(op: str, domid: int = 0, /, **takes: object) -> dict[str, object]:
    return {"domid": domid, "op": f"store.{op}", "in": takes, "out": {}}


def test_what_changes_is_told_and_what_only_reads_is_not(made: Followed) -> None:
    store, root = made.store, made.root
    store.write(root, "/a", b"1")
    store.mkdir(root, "/b")
    store.set_perms(root, "/a", ["n0", "r1"])
    store.watch(root, "/a", "token")
    store.unwatch(root, "/a", "token")
    store.rm(root, "/b")
    assert (store.read(root, "/a"), store.get_perms(root, "/a")) == (b"1", ["n0", "r1"])
    assert made.lines() == [
        said("write", path="/a", value="1"), said("mkdir", path="/b"), said("set_perms", path="/a", texts=["n0", "r1"]),
        said("watch", path="/a", token="token"), said("unwatch", path="/a", token="token"), said("rm", path="/b"),
    ]  # fmt: skip


def test_a_transaction_is_told_by_its_number(made: Followed) -> None:
    store, root = made.store, made.root
    store.write(root, "/a", b"0")
    made.lines()
    tx = store.begin(root)
    store.write(root, "/a", b"1", tx)
    store.read(root, "/a", tx)
    store.write(root, "/a", b"2")
    with pytest.raises(StoreError):
        store.end(root, tx, True)
    begun, within, beside, ended = made.lines()
    assert begun == {**said("begin"), "out": {"tx": tx}}
    assert within == said("write", path="/a", value="1", tx=tx)
    assert beside == said("write", path="/a", value="2")
    assert (ended["in"], ended["error"]) == ({"tx": tx, "commit": True}, "EAGAIN")


def test_a_refusal_is_told_and_changes_nothing(made: Followed) -> None:
    with pytest.raises(StoreError):
        made.store.write(made.guest, "/tool/x", b"1")
    (refused,) = made.lines()
    assert (refused["domid"], refused["error"]) == (1, "EACCES")
    assert "out" not in refused
    assert "/tool/x" in str(refused["text"])


def test_a_path_is_told_whole(made: Followed) -> None:
    made.store.write(made.root, "/local/domain/1", b"")
    made.store.set_perms(made.root, "/local/domain/1", ["n1"])
    made.lines()
    made.store.write(made.guest, "data", b"1")
    made.store.watch(made.guest, "@releaseDomain", "t")
    assert made.lines() == [
        said("write", 1, path="/local/domain/1/data", value="1"), said("watch", 1, path="@releaseDomain", token="t"),
    ]  # fmt: skip


def test_where_nobody_follows_nothing_is_told(made: Followed) -> None:
    made.store.operated = None
    made.store.write(made.root, "/a", b"1")
    assert made.told == []
    assert made.store.read(made.root, "/a") == b"1"


def test_for_people_and_never_for_their_terminal() -> None:
    one = Operation(3, "write", {"path": "/a", "value": b"4\xff", "tx": 7}, None)
    line = readable(json.loads(one.line(TIME)))
    assert line.partition("  ")[0].endswith(".250000")
    assert line.endswith("      3  store.write path=/a value='4\\\\xff' tx=7 → ok")
    assert readable(json.loads(Operation(0, "begin", {}, 5).line(TIME))).endswith("store.begin → ok tx=5")
    evil = Operation(1, "rm", {"path": "/\x1b]2;x\x07"}, error=StoreError(22, "/\x1b]2;x\x07", "no path"))
    line = readable(json.loads(evil.line(TIME)))
    assert line.isprintable()
    assert line.endswith("store.rm path=/\\x1b]2;x\\x07 → EINVAL /\\x1b]2;x\\x07: no path")
