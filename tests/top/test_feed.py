"""The trace as it comes, without a screen."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from xentop.feed import Event, Feed, domain_of, shown

pytestmark = pytest.mark.timeout(120)


def called(seq: int, op: str, domid: int = 1, handle: int = 3, **more: Any) -> dict[str, Any]:
    """A record, as the hypervisor has it."""
    taken = more.pop("taken", {})
    return {
        "seq": seq, "time": seq * 1_000_000_000, "domid": domid, "handle": handle, "op": op, "in": taken, **more,
    }  # fmt: skip


NAMED = called(
    1, "name_ring", handle=3, taken={"frame": 7, "name": "vif-0-tx"}, out={},
)  # fmt: skip
GRANTED = called(2, "grant_access", handle=3, taken={"frame": 7, "dom": 0, "flags": 0}, out={"ref": 8})
MAPPED = called(3, "map_grant_ref", 0, 5, taken={"dom": 1, "ref": 8, "flags": 2}, out={"handle": 1})
OTHER = called(4, "alloc_frame", 2, 4, out={"frame": 9})
CALLS = [Event.of(said) for said in (NAMED, GRANTED, MAPPED, OTHER)]


def done(moment: float, path: str, domid: int = 0, **more: Any) -> dict[str, Any]:
    """What was done with the store, as the hypervisor has it."""
    taken = {"path": path, "value": "4"}
    return {"time": int(moment * 1e9), "domid": domid, "op": "store.write", "in": taken, **(more or {"out": {}})}


NODES = [
    Event.of(done(moment, path))
    for moment, path in (
        (1.5, "/local/domain/1/device/vif/0/state"), (2.5, "/local/domain/0/backend/vif/1/0/state"),
        (3.5, "/local/domain/1/device/vif/01/state"), (3.6, "/local/domain/0/backend/vif/0/1/state"),
        (3.7, "/local/domain/2/device/vbd/0/state"), (3.8, "/tool/vif-0"),
    )
]  # fmt: skip


def filtered(words: str) -> list[float]:
    """When what is shown was."""
    return [one.time for one in shown(sorted([*CALLS, *NODES], key=lambda one: one.time), words)]


def test_calls_and_operations_as_they_came() -> None:
    assert filtered("") == sorted([1, 2, 3, 4, 1.5, 2.5, 3.5, 3.6, 3.7, 3.8])


def test_the_trace_of_a_domain() -> None:
    assert filtered("1") == [1, 1.5, 2, 3.5]
    assert filtered("0") == [1.5, 2.5, 3, 3.5, 3.6, 3.7, 3.8]
    assert filtered("77") == []


def test_the_trace_of_a_device_has_both_its_ends() -> None:
    assert filtered("vif-0") == [1, 1.5, 2, 2.5, 3]
    assert filtered("vif-1") == [3.6]
    assert filtered("vbd-0") == [3.7]


def test_the_trace_by_a_part_of_its_text() -> None:
    assert filtered("alloc_frame") == [4]
    assert filtered("/tool") == [3.8]
    assert filtered("\N{SUPERSCRIPT TWO}") == []
    assert filtered("vif-\N{SUPERSCRIPT TWO}") == []
    assert filtered("[-0") == []


def test_an_operation_of_the_store_in_a_line() -> None:
    refused = {"error": "EACCES", "text": "/tool/\x1b: domain 3 may not"}
    found = [Event.of(done(0.25, "/local/domain/3/state", 3)), Event.of(done(2.0, "/tool/\x1b", 3, **refused))]
    assert [(one.time, one.domid, one.of_store) for one in found] == [(0.25, 3, True), (2.0, 3, True)]
    assert [one.text.partition("  store.")[2] for one in found] == [
        "write path=/local/domain/3/state value='4' → ok",
        "write path=/tool/\\x1b value='4' → EACCES /tool/\\x1b: domain 3 may not",
    ]
    assert ".250000" in found[0].text


def pipe(folder: Path, past: str) -> None:
    """A trace and the pipes."""
    (folder / "hypervisor").mkdir()
    (folder / "hypervisor" / "trace").write_text(past)
    for name in ("trace_pipe", "store_pipe"):
        os.mkfifo(folder / "hypervisor" / name)


def test_the_trace_of_a_device_that_was_there_before(tmp_path: Path) -> None:
    pipe(tmp_path, "".join(f"{json.dumps(said)}\n" for said in (NAMED, GRANTED, OTHER)))
    with closing(Feed(str(tmp_path))) as made:
        assert made.past == [NAMED, GRANTED]
        assert list(made.events) == []
        later = Event.of(called(9, "alloc_frame", handle=3, out={"frame": 11}))
        calls = [Event.of(MAPPED), Event.of(OTHER), later]
        assert [one.time for one in shown(calls, "vif-0", made.past)] == [3, 9]
        assert shown(calls, "vif-0") == []


def test_the_pipe_is_read_as_it_comes_and_never_waited_for(tmp_path: Path) -> None:
    pipe(tmp_path, "")
    with closing(Feed(str(tmp_path))) as made:
        writer = os.open(tmp_path / "hypervisor" / "trace_pipe", os.O_WRONLY)
        assert made.update() == []
        line = json.dumps(OTHER).encode()
        os.write(writer, line[:20])
        assert (made.update(), list(made.events)) == ([], [])
        os.write(writer, line[20:] + b"\n" + b'{"lost": 3}\n' + line[:5])
        assert len(made.update()) == 2
        assert [one.domid for one in made.events] == [2, -1]
        assert made.events[0].said == OTHER
        assert made.events[1].text == "(3 calls lost)"
        os.write(writer, line[5:] + b"\n")
        assert len(made.update()) == 1
        other = os.open(tmp_path / "hypervisor" / "store_pipe", os.O_WRONLY)
        os.write(other, json.dumps(done(3.5, "/a", 2)).encode() + b"\n")
        os.write(writer, line + b"\n")
        assert len(made.update()) == 2
        assert [one.time for one in list(made.events)[3:]] == [3.5, 4]
        os.close(other)
        os.close(writer)
        assert made.update() == []


def test_all_that_has_come_is_given_and_the_last_is_kept(tmp_path: Path) -> None:
    pipe(tmp_path, "")
    with closing(Feed(str(tmp_path))) as made:
        count = 0
        for name, said in (("trace_pipe", OTHER), ("store_pipe", done(3.5, "/a", 2))):
            writer = os.open(tmp_path / "hypervisor" / name, os.O_WRONLY)
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
            line = json.dumps(said).encode() + b"\n"
            count += os.write(writer, line * 1500) // len(line)
            os.close(writer)
        found = made.update()
        assert len(found) == count == 3000
        assert list(made.events) == found[1000:]


@pytest.mark.parametrize(("words", "domid"), [("0", 0), ("32751", 32751), ("007", 7), ("9" * 5000, None), ("٣", None)])
def test_a_filter_is_a_domain_or_a_text(words: str, domid: int | None) -> None:
    assert domain_of(words) == domid
    assert shown([Event.of(OTHER)], words) == []
