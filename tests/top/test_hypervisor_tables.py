"""The tables of hypervisor/ that the monitor reads: who may, and what is in them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.mounted.mount import until
from tests.top.lab import TABLES, Lab
from xenfs.abi.xen import PAGE_SIZE

pytestmark = pytest.mark.timeout(120)


def rows(lab: Lab, name: str) -> list[list[str]]:
    """A table, in words."""
    return [line.split() for line in lab.file(f"hypervisor/{name}").splitlines()[1:]]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_for_whoever_mounted_it(lab: Lab, name: str) -> None:
    found = Path(lab.point, "hypervisor", name).stat()
    assert stat.S_IMODE(found.st_mode) == 0o400
    assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())


@pytest.mark.parametrize("name", TABLES)
def test_a_table_says_the_same_each_time_it_is_read_as_long_as_nothing_happens(lab: Lab, name: str) -> None:
    first = lab.file(f"hypervisor/{name}")
    assert all(lab.file(f"hypervisor/{name}") == first for _ in range(20))
    keys = [
        [int(word) if word.isdecimal() else word for word in row[: 1 if name == "pages" else 2]]
        for row in rows(lab, name)
    ]
    assert keys == sorted(keys)
    assert Path(lab.point, "hypervisor", name).stat().st_size == len(first)


def names(lab: Lab, kind: str) -> set[tuple[int, str]]:
    """What `ls` finds in each domain's directory."""
    homes = Path(lab.point, "domains").iterdir()
    return {(int(home.name), path.name) for home in homes for path in (home / kind).iterdir()}


def test_the_tables_agree_with_the_directories(lab: Lab) -> None:
    assert {(int(domid), name) for domid, name, _ in rows(lab, "rings")} == names(lab, "rings")
    assert {(int(row[0]), row[1]) for row in rows(lab, "grants")} == names(lab, "grants")
    assert {(int(row[0]), row[1]) for row in rows(lab, "ports")} == names(lab, "evtchn")
    pages = {
        (int(row[2]), str(number))
        for row in rows(lab, "pages")
        for number in range(int(row[0]), int(row[0]) + int(row[1]))
    }
    assert pages == names(lab, "frames")


def test_each_record_agrees_with_its_info(lab: Lab) -> None:
    for domid, ref, to, kind, access, frame, maps, _ in rows(lab, "grants"):
        info = Path(lab.point, "domains", domid, "grants", ref, "info").read_text()
        assert f"domid={to} flags={kind}" in info
        assert ("readonly" in info) == (access == "ro")
        assert f"frame={frame} " in info
        assert info.split()[-1] == f"maps={maps}"
    for domid, port, state, remote, other, _ in rows(lab, "ports"):
        info = Path(lab.point, "domains", domid, "evtchn", port, "info").read_text()
        assert state in info
        assert f"remote_domid={remote}" in info
        assert f"remote_port={other}" in info or state == "unbound"
    for domid, name, frame in rows(lab, "rings"):
        page = Path(lab.point, "domains", domid, "rings", name).read_bytes()
        assert page == Path(lab.point, "domains", domid, "frames", frame).read_bytes()
        assert len(page) == PAGE_SIZE


def test_the_tables_follow_what_happens(lab: Lab) -> None:
    before = {name: lab.file(f"hypervisor/{name}") for name in TABLES}
    (frame,) = lab.two.memory.alloc()
    (ref,) = lab.two.memory.grant([frame], 1)
    lab.two.memory.name_ring("vbd-9-ring", frame)
    channel = lab.two.events.alloc_unbound(1)
    watch = lab.two.store.watch("/local", "a token")
    try:
        assert ["2", "vbd-9-ring", str(frame)] in rows(lab, "rings")
        assert [str(frame), "1", "2", "busy", "1", "0", "vbd-9-ring"] in rows(lab, "pages")
        assert ["2", str(ref), "1", "permit_access", "rw", str(frame), "0", "-"] in rows(lab, "grants")
        assert ["2", str(channel.port), "unbound", "1", "0", "-"] in rows(lab, "ports")
        assert ["2", "/local", "a", "token"] in rows(lab, "watches")
    finally:
        watch.close()
        channel.close()
        lab.two.memory.unname_ring("vbd-9-ring")
        lab.two.memory.end_access([ref])
        lab.two.memory.free([frame])
    assert {name: lab.file(f"hypervisor/{name}") for name in TABLES} == before


def test_whose_event_is_pending(lab: Lab) -> None:
    _, there = lab.ports
    pending = {(row[0], row[1]) for row in rows(lab, "ports") if row[5] == "pending"}
    assert pending == {("2", str(there))}
    channel = lab.one.events.alloc_unbound(2)
    with channel, lab.two.events.bind_interdomain(1, channel.port) as other:
        other.drain()
        other.notify()
        assert ["1", str(channel.port), "interdomain", "2", str(other.port), "pending"] in rows(lab, "ports")
        assert channel.wait(1)
        assert ["1", str(channel.port), "interdomain", "2", str(other.port), "-"] in rows(lab, "ports")


def test_a_domain_that_dies_is_in_the_tables_as_long_as_its_pages_are_mapped(lab: Lab) -> None:
    domid = lab.create("mortal")
    with lab.enter(domid) as mortal:
        (frame,) = mortal.memory.alloc()
        (ref,) = mortal.memory.grant([frame], 2)
        with lab.two.memory.map(domid, [ref]):
            lab.destroy(domid)
            until(lambda: [row for row in rows(lab, "pages") if row[2] == str(domid)] != [])
            (row,) = (row for row in rows(lab, "pages") if row[2] == str(domid))
            assert row[:2] == [str(frame), "1"]
            assert int(row[5]) == 1
    until(lambda: not any(row[2] == str(domid) for row in rows(lab, "pages")))
