"""All about a row in words, without a screen."""

from __future__ import annotations

import pytest
from xentop import words
from xentop.tables import PortLine

from tests.top.samples import domain, rows, sample
from xenfs.abi.stats import Stats
from xenfs.commands.machine import Frames

pytestmark = pytest.mark.timeout(120)


def test_a_domain_in_words_with_units() -> None:
    of = Frames((domain(1, granted=3),), 4096, 0)
    first, second = (Stats(role=0, device=1, since=5, bytes_in=n, bytes_out=n // 2) for n in (0, 27040))
    before, now = (
        sample(moment, frames=of, stats={(1, "vif-0-stats"): one}, cpu={1: 12.5})
        for moment, one in ((0.0, first), (2.0, second))
    )
    (row,) = rows("domains", now, before)
    assert list(words.about("domains", row)) == [
        "domain           1 d1",
        "state            running",
        "memory           2 MiB, 512 frames",
        "granted          3 frames",
        "net              19.8K/s, of which 13.2K/s into the domain and 6.6K/s out of it",
        "processor        12% of one",
    ]


def test_a_channel_in_words() -> None:
    ports = (
        PortLine(1, 1, "interdomain", 2, 7, pending=False), PortLine(1, 2, "unbound", 0, 0, pending=False),
        PortLine(1, 4, "virq", 0, 0, pending=True), PortLine(2, 7, "interdomain", 1, 1, pending=True),
    )  # fmt: skip
    first, second, third = (list(words.about("events", row)) for row in rows("events", sample(ports=ports)))
    assert first == [
        "port             1 of domain 1", "state            interdomain", "other end        port 7 of domain 2",
        "event pending at port 7 of domain 2",
    ]  # fmt: skip
    assert second[2:] == ["other end        none yet: it waits for domain 0"]
    assert third[1:] == ["state            virq", "event pending at port 4 of domain 1"]


def test_a_node_in_words() -> None:
    nodes = (("/a", 1, b""), ("/a/b", 2, b"1"))
    now = sample(nodes=nodes, watches=((0, "/a/b", "x"), (2, "/a/b", "y")), ages={"/a/b": 3.2})
    first, second = (list(words.about("store", row)) for row in rows("store", now))
    assert first == ["path             /a"]
    assert second == [
        "path             /a/b", "value            1", "changed          3s ago",
        "watched by       domain 0, domain 2",
    ]  # fmt: skip
