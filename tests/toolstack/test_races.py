"""Commands of the toolstack at the same time, and processes that are late when it asks for something."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from xl import kinds, spec

from tests.toolstack.stage import Stage
from xenfs.abi.xenbus import XenbusState as S
from xenfs.xenbus import Device

pytestmark = pytest.mark.timeout(120)


def attach(stage: Stage, folder: Path, domid: int, kind: str) -> Device:
    """A disk, or a controller with a stick in it, connected."""
    image = folder / "image"
    image.write_bytes(bytes(1 << 20))
    line = f"vdev=xvda,target={image}" if kind == "vbd" else "ports=1"
    wanted = kinds.parse(kind, line, domid, 0, int)
    if kind == "vusb":
        wanted = spec.DeviceSpec(wanted.device, back={**wanted.back, "port/1": f"stick:{image}"})
    spec.add(stage.store, wanted)
    spec.wait_ready(stage.store, wanted)
    stage.until_connected(wanted.device)
    return wanted.device


@pytest.mark.parametrize("kind", ["vbd", "vusb"])
def test_a_backend_that_is_closed_and_has_the_image_still_is_waited_for(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """As when a guest has powered off: its frontends have closed, and its disks are wanted by whoever comes next."""
    monkeypatch.setattr(spec, "DESTROY_SECONDS", 0.5)
    stage.devd()
    device = attach(stage, tmp_path, stage.guest(), kind)
    os.kill(stage.one(f"device/{kind}/"), signal.SIGTERM)
    stage.until_states(device, S.Closed, S.Closed)
    back = stage.one(f"backend/{kind}/")
    os.kill(back, signal.SIGSTOP)
    try:
        assert spec.detach(stage.store, [device], destroy=True) == [device]
    finally:
        os.kill(back, signal.SIGCONT)


@pytest.mark.parametrize("kind", ["vbd", "vusb"])
def test_where_devd_has_left_in_order_nobody_is_waited_for(stage: Stage, tmp_path: Path, kind: str) -> None:
    devd = stage.devd()
    device = attach(stage, tmp_path, stage.guest(), kind)
    devd.terminate()
    devd.wait()
    assert stage.states(device)[1] is S.Closed
    assert spec.detach(stage.store, [device], destroy=True) == []
    assert stage.states(device) == (S.Unknown, S.Unknown)
