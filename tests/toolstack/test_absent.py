"""A backend that does not come: what is said of its supervisor."""

from __future__ import annotations

import os
import signal

import pytest
from xl import spec
from xl.spec import DeviceSpec

from tests.mounted.mount import until
from tests.toolstack.stage import SECONDS, Stage
from xenfs.commands.failure import Unable
from xenfs.xenbus import Device

pytestmark = pytest.mark.timeout(110)


def why(stage: Stage) -> str:
    """What is said of a device of a kind that has no driver."""
    wanted = DeviceSpec(Device("nodriver", 1, 0))
    spec.add(stage.store, wanted)
    with pytest.raises(Unable) as caught:
        spec.wait_ready(stage.store, wanted, stage.place)
    spec.detach(stage.store, [wanted.device])
    return str(caught.value).partition("within 0 s: ")[2]


def test_the_supervisor_and_its_log_are_named(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "INIT_SECONDS", 0.2)
    (stage.mount.root / "domains" / "1").mkdir()
    assert why(stage) == "is xenfs devd running?"
    devd = stage.devd()
    assert why(stage) == f"xenfs devd is running (pid {devd.pid}); why not may be in what it prints"
    devd.terminate()
    devd.wait(SECONDS)
    stage.fine("devd")
    pid = stage.place.holder("devd-0.pid")
    assert pid is not None
    try:
        log = stage.place.path / "devd-0.log"
        assert why(stage) == f"xenfs devd is running (pid {pid}); why not may be in its log {log}"
    finally:
        os.kill(pid, signal.SIGTERM)
        until(lambda: stage.place.holder("devd-0.pid") is None, SECONDS)
