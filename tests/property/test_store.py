"""The store beside a naive one: the same answers, the same tree, the same events, whatever is asked.

XENFS_STORE_LIVES for more lives, XENFS_SEED for one again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests.property.naive_store import NaiveStore, No, Tx
from xenfs.xenstore.client import Client
from xenfs.xenstore.errors import StoreError
from xenfs.xenstore.store import Store

SEED = int(os.environ.get("XENFS_SEED", random.randrange(1 << 30)))
LIVES = int(os.environ.get("XENFS_STORE_LIVES", "30"))
STEPS = 400
NAMES = ("a", "b", "c")
WHO = {"root": 0, "other": 0, "one": 1, "two": 2}


class Life:
    """Both stores, and clients that do the same in each."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.store, self.naive = Store(), NaiveStore()
        self.heard: list[str] = []
        for domid in (1, 2):
            self.store.domain_came(domid)
        self.clients = {who: self.store.connect(Client(domid, lambda *_: None)) for who, domid in WHO.items()}
        self.watcher = self.store.connect(Client(0, lambda path, _token: self.heard.append(path)))
        self.store.rm(self.clients["root"], "/tool")
        self.watched = ["/", "/a", "/a/b"]
        for path in self.watched:
            self.store.watch(self.watcher, path, path)
        self.story: list[str] = []

    def path(self) -> str:
        return "/" + "/".join(self.rng.choice(NAMES) for _ in range(self.rng.choice((0, 1, 1, 2, 2, 3, 4))))

    def perms(self) -> list[str]:
        return [f"{self.rng.choice('nrwb')}{self.rng.randrange(3)}" for _ in range(self.rng.choice((1, 2, 3)))]

    def both(self, what: str, ours: Callable[[], object], theirs: Callable[[], object]) -> object:
        """Do it in both; what they answer must be the same."""
        answers: list[object] = []
        for do in (ours, theirs):
            try:
                answers.append(do())
            except StoreError as error:
                answers.append(error.name)
            except No as refused:
                answers.append(str(refused))
        self.story.append(f"{what}: {answers[0]!r}")
        assert answers[0] == answers[1], f"the naive store says {answers[1]!r}"
        return answers[0]

    def step(self) -> None:
        rng, store, naive = self.rng, self.store, self.naive
        who = rng.choice(list(WHO))
        client, domid = self.clients[who], WHO[who]
        open_ = sorted(client.transactions)
        number = rng.choice((0, 0, *open_)) if open_ else 0
        tx: Tx | None = naive.txs.get((who, number))
        path, value, perms = self.path(), bytes([rng.randrange(65, 70)]), self.perms()
        label = f"{who} in {number}:"
        kind = rng.choice(
            ("write",) * 6 + ("mkdir", "rm", "rm", "chmod", "chmod", "begin", "end", "end", "read", "list", "perms")
        )
        if kind == "write":
            self.both(
                f"{label} write {path}",
                lambda: store.write(client, path, value, number),
                lambda: naive.set(domid, tx, path, value),
            )
        elif kind == "mkdir":
            self.both(
                f"{label} mkdir {path}",
                lambda: store.mkdir(client, path, number),
                lambda: naive.set(domid, tx, path, None),
            )
        elif kind == "rm":
            self.both(f"{label} rm {path}", lambda: store.rm(client, path, number), lambda: naive.rm(domid, tx, path))
        elif kind == "chmod":
            self.both(
                f"{label} chmod {path} {perms}",
                lambda: store.set_perms(client, path, perms, number),
                lambda: naive.chmod(domid, tx, path, perms),
            )
        elif kind == "begin" and len(open_) < 3:
            self.both(f"{label} begin", lambda: store.begin(client), lambda: naive.begin(who))
        elif kind == "end" and number:
            commit = rng.random() < 0.8
            self.both(
                f"{label} end {commit}",
                lambda: store.end(client, number, commit),
                lambda: naive.end(who, number, commit),
            )
        elif kind == "read":
            self.both(
                f"{label} read {path}",
                lambda: store.read(client, path, number),
                lambda: naive.need(domid, tx, path, "r").value,
            )
        elif kind == "list":
            self.both(
                f"{label} list {path}",
                lambda: store.look(client, path, number).names(),
                lambda: naive.need(domid, tx, path, "r").children,
            )
        elif kind == "perms":
            self.both(
                f"{label} perms {path}",
                lambda: store.get_perms(client, path, number),
                lambda: naive.need(domid, tx, path, "r").perms,
            )
        self.agree()

    def agree(self) -> None:
        """Whole trees, what each domain owns, and what the watcher heard."""
        ours = {p: (n.value, [str(e) for e in n.perms], n.names()) for p, n in self.store.tree.nodes.items()}
        assert ours == {p: (n.value, n.perms, n.children) for p, n in self.naive.nodes.items()}
        owned = [int(n.perms[0][1:]) for n in self.naive.nodes.values()]
        assert self.store.tree.owned == {domid: owned.count(domid) for domid in set(owned)}
        kept = sum(len(p) + n.size for p, n in self.store.tree.nodes.items())
        assert sum(self.store.tree.kept.values()) == kept
        expected = []
        for path, exact in self.naive.events:
            for top in self.watched:
                below = path == top or (not exact and path.startswith("/" if top == "/" else top + "/"))
                expected += [path] * below
        assert self.heard == expected
        self.heard.clear()
        self.naive.events.clear()


@pytest.mark.parametrize("life", range(LIVES))
def test_the_store_lives_as_the_naive_one(life: int) -> None:
    lived = Life(SEED + life)
    try:
        for _ in range(STEPS):
            lived.step()
    except AssertionError as error:
        recent = "\n".join(lived.story[-30:])
        raise AssertionError(f"XENFS_SEED={SEED + life}, after\n{recent}\n{error}") from error
    assert len(lived.story) > STEPS / 2
