"""Commands that show devices, where guests have written into their nodes what they like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.toolstack.stage import Stage
from tests.xenbus.toolstack import attach
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus import Device

pytestmark = pytest.mark.timeout(110)
EVIL = b"\x1b]0;title\x07\x1b[2J\nerror: vif 2/0: forged"
BACKENDS = [
    b"/local/domain/0/backend/a b/1/0", b" / / /3/ / / /", b"/local/domain/\xb2/backend/vif/1/0", EVIL,
    b"/local/domain/" + b"9" * 1900 + b"/backend/vif/1/0", b"/local/domain/0/backend//1/0", b"",
]  # fmt: skip


@pytest.fixture
def guest(stage: Stage) -> Iterator[MountedDomain]:
    """Domain 1, which may write into its devices and its errors."""
    Path(stage.point, "domains", "1").mkdir()
    for name in ("device", "error"):
        stage.store.mkdir(f"/local/domain/1/{name}")
        stage.store.chmod(f"/local/domain/1/{name}", ["n1"])
    with MountedDomain(1, stage.point) as made:
        yield made


def test_what_a_guest_says_of_its_backends_may_be_anything(stage: Stage, guest: MountedDomain) -> None:
    for number, said in enumerate(BACKENDS):
        guest.store.write(f"device/vif/{number}/backend", said)
    assert stage.fine("lint") == ""
    assert stage.fails("explain", "vif", "1/0").endswith("domain 1 has no vif 0")


@pytest.mark.parametrize("path", ["device/vif/0/backend", "backend/vif/1/0/frontend"])
def test_a_home_that_is_no_domains(stage: Stage, path: str) -> None:
    stage.store.write(f"/local/domain/spare/{path}", "/local/domain/0/backend/vif/1/0")
    assert stage.fine("lint") == ""
    assert "Domain-0" in stage.fine("top", "--once")


def test_no_terminal_obeys_a_guest(stage: Stage, guest: MountedDomain) -> None:
    device = Device("vif", 1, 0)
    attach(stage.store, device)
    stage.store.write(f"{device.libxl_path}/backend", device.backend_path)
    for name in ("state", "mac", "tx-ring-ref"):
        stage.store.write(f"{device.frontend_path}/{name}", EVIL)
    guest.store.write("error/device/vif/0/error", EVIL)
    for words in (("lint",), ("explain", "vif", "1/0"), ("network-list", "1")):
        done = stage.xenfs(*words)
        assert "\\x1b]0;title\\x07" in done.stdout
        assert [one for one in done.stdout if not one.isprintable() and one != "\n"] == []
        assert "\nerror: vif 2/0" not in done.stdout


def test_a_backend_that_lacks_what_the_toolstack_wrote(stage: Stage, guest: MountedDomain) -> None:
    del guest
    device = Device("vusb", 1, 0)
    stage.store.write(f"{device.libxl_path}/backend", device.backend_path)
    assert stage.fails("usb-list", "1").endswith(f"{device.backend_path}/num-ports is missing")
