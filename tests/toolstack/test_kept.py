"""Descriptors that a supervisor keeps for the next driver of a device."""

from __future__ import annotations

import os
import socket

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
        sent = kept.take(ours)
        assert sent is not None
        name, fd = sent
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
        assert kept.take(ours) is None


def test_without_a_supervisor_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kept.VARIABLE, raising=False)
    kept.keep("tap", 0)
    assert kept.inherited("tap") is None
