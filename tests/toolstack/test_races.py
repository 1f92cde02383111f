"""Commands of the toolstack at the same time, and processes that are late when it asks for something."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from xl import kinds, spec, toolstack, usb
from xl.config import GuestConfig

from tests.toolstack.stage import Stage
from xenfs.abi.xenbus import XenbusState as S
from xenfs.abi.xenfs_op import DestroyDomain
from xenfs.commands.failure import Unable
from xenfs.domain import Store
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


def test_devices_attached_at_once_each_have_a_number_of_their_own(stage: Stage) -> None:
    stage.devd()
    domid = str(stage.guest())
    words = [sys.executable, "-m", "xenfs", "device-attach", "echo", domid]
    commands = [subprocess.Popen(words, env=stage.environment) for _ in range(4)]
    assert [command.wait() for command in commands] == [0] * 4
    assert sorted(device.id for device in spec.attached(stage.store, int(domid), "echo")) == [0, 1, 2, 3]


def test_usb_devices_plugged_at_once_are_each_in_a_port_of_their_own(stage: Stage, tmp_path: Path) -> None:
    stage.devd()
    domid = stage.guest()
    images = [tmp_path / f"image{number}" for number in range(4)]
    for image in images:
        image.write_bytes(bytes(1 << 20))
    words = [sys.executable, "-m", "xenfs", "usbdev-attach", str(domid)]
    commands = [subprocess.Popen([*words, f"device=stick:{image}"], env=stage.environment) for image in images]
    assert [command.wait() for command in commands] == [0] * 4
    (controller,) = usb.controllers(stage.store, domid)
    plugged = [what for what in usb.ports(stage.store, controller).values() if what]
    assert sorted(plugged) == [f"stick:{image}" for image in images]


def test_a_device_that_comes_while_its_domain_is_destroyed_is_refused(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.devd()
    domid = stage.guest()
    device = Device("echo", domid, 0)
    said: list[Unable] = []
    detach = spec.detach

    def late(store: Store, devices: list[Device], *, destroy: bool) -> list[Device]:
        found = detach(store, devices, destroy=destroy)
        with pytest.raises(Unable, match=f"domain {domid} is being destroyed") as caught:
            spec.add(store, spec.DeviceSpec(device))
        said.append(caught.value)
        return found

    monkeypatch.setattr(spec, "detach", late)
    toolstack.destroy(stage.root, stage.point, domid)
    assert len(said) == 1
    assert stage.states(device) == (S.Unknown, S.Unknown)


def test_whoever_has_the_number_of_a_destroyed_domain_at_once_keeps_what_is_its_own(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody makes a domain as soon as the number is free, while the one who destroys is not done yet."""
    first = toolstack.create(stage.root, stage.point, GuestConfig(name="first", memory=4))
    call = stage.root.call
    made: list[int] = []

    def then_another(request: DestroyDomain) -> object:
        done = call(request)
        monkeypatch.setattr(stage.root, "call", call)
        made.append(toolstack.create(stage.root, stage.point, GuestConfig(name="second", memory=4)))
        return done

    monkeypatch.setattr(stage.root, "call", then_another)
    toolstack.destroy(stage.root, stage.point, first)
    assert made == [first]
    assert stage.store.exists(f"/libxl/{first}/type")
    assert stage.place.read(first, "config")["name"] == "second"


def test_what_a_domain_that_was_only_removed_has_left_is_not_in_the_way(stage: Stage) -> None:
    stage.devd()
    first = toolstack.create(stage.root, stage.point, GuestConfig(name="first", memory=4, usbctrl=("",)))
    Path(stage.point, "domains", str(first)).rmdir()
    assert toolstack.create(stage.root, stage.point, GuestConfig(name="second", memory=4, usbctrl=("",))) == first
