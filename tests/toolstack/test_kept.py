"""Descriptors that a supervisor keeps for the next driver of a device."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from xenfs.xenbus import kept


def test_a_descriptor_is_sent_and_found_again_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    with ours, theirs:
        monkeypatch.setenv(kept.VARIABLE, kept.describe(theirs.fileno(), {}))
        assert kept.inherited("tap") is None
        kept.keep("tap", writer)
        os.close(writer)
        held: dict[str, int] = {}
        assert kept.take(ours, held)
        ((name, fd),) = held.items()
        assert name == "tap"
        assert not os.get_inheritable(fd)
        monkeypatch.setenv(kept.VARIABLE, kept.describe(theirs.fileno(), {name: fd, "other": 0}))
        assert kept.inherited("tape") is None
        assert kept.inherited("tap") == fd
        assert kept.inherited("tap") is None, "it is given once"
        assert kept.inherited("other") == 0
        os.write(fd, b"the same")
        assert os.read(reader, 16) == b"the same"
        os.close(fd)
        os.close(reader)
        theirs.close()
        assert not kept.take(ours, held)


def test_what_is_dropped_is_closed_when_the_driver_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    held: dict[str, int] = {}
    with ours, theirs:
        monkeypatch.setenv(kept.VARIABLE, kept.describe(theirs.fileno(), {}))
        for name in ("tap", "tap", "other"):  # by a name that is there it takes the other's place
            kept.keep(name, writer)
            assert kept.take(ours, held)
        os.close(writer)
        supervisor = threading.Thread(target=lambda: [kept.take(ours, held) for _ in range(3)])
        supervisor.start()
        kept.drop("tap")
        assert list(held) == ["other"]
        kept.drop("tap")
        kept.drop("other")
        supervisor.join()
        assert held == {}
        assert os.read(reader, 1) == b"", "nobody has the other end"
        os.close(reader)
        ours.close()
        kept.drop("tap")


def test_a_driver_that_dies_before_it_hears_the_answer_is_no_trouble() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        held: dict[str, int] = {}
        theirs.send(b"tap")
        assert kept.take(ours, held)
        theirs.close()  # with the answer in it
        while kept.take(ours, held):
            pass


def test_a_name_may_have_an_equals_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kept.VARIABLE, kept.describe(3, {"a=b": 7}))
    assert kept.inherited("a") is None
    assert kept.inherited("a=b") == 7


def test_what_nobody_has_asked_for_is_let_go_here_and_there(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    with ours, theirs:
        held = {"tap": os.dup(writer), "other": os.dup(writer)}
        monkeypatch.setenv(kept.VARIABLE, kept.describe(theirs.fileno(), {"tap": writer, "other": os.dup(writer)}))
        supervisor = threading.Thread(target=lambda: [kept.take(ours, held) for _ in range(2)])
        supervisor.start()
        kept.leave_none()
        supervisor.join()
        assert held == {}
        assert kept.inherited("tap") is None
        assert os.read(reader, 1) == b"", "nobody has the other end"
        os.close(reader)
        kept.leave_none()


def test_without_a_supervisor_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kept.VARIABLE, raising=False)
    kept.keep("tap", 0)
    kept.drop("tap")
    kept.leave_none()
    assert kept.inherited("tap") is None
