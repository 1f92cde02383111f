"""A disk and a stick whose backends are in a driver domain."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.block.yard import python
from tests.mounted.mount import until
from tests.toolstack.stage import SECONDS
from tests.usb.bay import Bay

pytestmark = pytest.mark.timeout(180)
MiB = 1 << 20
WRITE = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
os.pwrite(fd, sys.argv[2].encode() * 512, 4096)
os.fsync(fd)
print(os.pread(fd, len(sys.argv[2]), 4096).decode())
"""


def test_both_work_as_domain_0s_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    bay = Bay(tmp_path_factory.mktemp("bay"))
    try:
        driver = bay.stage.guest("driver", memory=16)
        bay.stage.devd(driver)
        domid = bay.stage.guest("user", memory=16)
        disk, stick = bay.image(MiB, "disk"), bay.image(MiB, "stick")
        device = bay.attach(domid, f"format=raw,vdev=xvda,access=rw,no-discard,backend={driver},target={disk}")
        assert device.backend_domid == driver
        assert bay.stage.store.read(f"{device.backend_path}/feature-discard") == b"0"
        bay.stage.fine("usbctrl-attach", "user", "ports=2", "backend=driver")
        bay.stage.fine("usbdev-attach", "user", f"device=stick:{stick}")
        path = f"/local/domain/{domid}/device/vusb/0/disk/1/xenfs-file"
        until(lambda: bay.stage.store.exists(path), SECONDS)
        for file, image in ((str(bay.file(device)), disk), (bay.stage.store.read(path).decode(), stick)):
            assert python(WRITE, file, image.name) == f"{image.name}\n"
            assert image.read_bytes()[4096:].startswith(image.name.encode() * 512)
        rings = {entry.name for entry in Path(bay.stage.point, "domains", str(driver), "rings").iterdir()}
        assert {f"vbd-{domid}-51712-stats", f"vusb-{domid}-0-stats"} <= rings
        bay.detach(device)
        bay.stage.fine("usbctrl-detach", "user", "0")
    finally:
        bay.close()
