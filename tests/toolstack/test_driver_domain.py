"""A driver domain: the backend in domain 3 and the frontend in domain 5, each with a user of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from xl import spec, tree
from xl.config import GuestConfig

from tests.need import missing
from tests.toolstack.stage import Stage
from xenfs.abi.xenfs_op import CreateDomain
from xenfs.domain import Refused
from xenfs.xenbus import Device

pytestmark = pytest.mark.timeout(110)
USERS = {3: 40003, 5: 40005}
AS_USER = """
import importlib.metadata, os, sys
import xl.devd, xl.guest, xenecho.back, xenecho.front  # this folder may be closed to others
from xl import kinds
kinds._driver(kinds.BACKENDS, "echo"), kinds._driver(kinds.FRONTENDS, "echo")
os.setgroups([]), os.setgid({user}), os.setuid({user})
{code}
"""


def made(stage: Stage, domid: int) -> None:
    stage.root.call(CreateDomain(dom=domid, name=f"guest{domid}", max_frames=1024))
    tree.write(stage.store, domid, GuestConfig(name=f"guest{domid}", uuid=f"uuid-{domid}", memory=4))
    os.chown(Path(stage.point, "domains", str(domid)), USERS[domid], USERS[domid])


def test_backend_in_one_domain_frontend_in_another_a_user_each(stage: Stage) -> None:
    if os.geteuid() != 0:
        missing("only root can be two other users")
    for domid in USERS:
        made(stage, domid)
    serve = "from xl.devd import _serve; _serve(sys.argv[1], 3, int(sys.argv[3]))"
    stage.spawn("-c", AS_USER.format(user=USERS[3], code=serve), stage.point)
    environment = {**stage.environment, "XEN_DOMID": "5"}
    guest = subprocess.Popen(
        [sys.executable, "-c", AS_USER.format(user=USERS[5], code="from xl.guest import main; sys.exit(main())")],
        env=environment,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    stage.processes.append(guest)
    assert guest.stdout is not None
    assert guest.stdout.readline() == b"ready\n"
    guest.stdout.close()
    device = Device("echo", 5, 0, 3)
    wanted = stage.attach(device)
    assert wanted.device.backend_path == "/local/domain/3/backend/echo/5/0"
    stage.until_connected(device)
    stage.until_echoes(device)
    owners = {module: Path(f"/proc/{stage.one(module)}").stat().st_uid for module in ("device/echo", "backend/echo")}
    assert owners == {"device/echo": USERS[5], "backend/echo": USERS[3]}
    stage.kill("backend/echo")
    stage.kill("device/echo")
    stage.until_echoes(device)
    stage.until_connected(device)
    assert spec.detach(stage.store, [device]) == []


def test_a_device_whose_driver_domain_has_no_devd_is_refused_in_words(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec, "INIT_SECONDS", 0.3)
    for domid in USERS:
        made(stage, domid)
    wanted = spec.DeviceSpec(Device("echo", 5, 0, 3))
    spec.add(stage.store, wanted)
    with pytest.raises(Exception, match=r"echo 5/0: its backend did not come .* is xenfs devd --domain 3 running"):
        spec.wait_ready(stage.store, wanted)
    spec.detach(stage.store, [wanted.device], destroy=True)
    with pytest.raises(Refused):
        stage.store.list("/local/domain/3/backend")
