"""USB devices of a guest whose driver is killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from xenusb.descriptors import VENDOR, Setup
from xenusb.loopback import FETCH, STORE

from tests.mounted.mount import until
from tests.toolstack.stage import SECONDS
from tests.usb.bay import IN, LOOPBACK, OUT, STICK, Bay, MiB, changed

pytestmark = pytest.mark.timeout(180)


def test_after_usbback_is_killed_the_devices_are_probed_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    bay = Bay(tmp_path_factory.mktemp("bay"))
    try:
        image = bay.image(16 * MiB, "image")
        domid = bay.usb_guest("loopback:", f"stick:{image}")
        path = bay.stick(domid, 2)
        writer = subprocess.Popen(
            ["timeout", "-s", "KILL", "100", sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        with bay.opened(domid, LOOPBACK) as handle:
            handle.control(Setup(1, 11, 1, 0))
            failed: list[int | None] = []

            def wait() -> None:
                try:
                    handle.transfer(IN | 2, size=8, seconds=60)
                except OSError as error:
                    failed.append(error.errno)

            waiting = threading.Thread(target=wait)
            waiting.start()
            for _ in range(4):
                bay.kill_usb_back(domid)
                until(lambda: _says(handle), SECONDS)
            waiting.join(30)
            assert failed == [errno.ESHUTDOWN]
            handle.control(Setup(VENDOR << 5, STORE, 0, 0, 4), b"kept")
            assert handle.control(Setup(IN | VENDOR << 5, FETCH, 0, 0, 64)) == b"kept"
            handle.transfer(OUT | 1, b"the setting of its interface is as it was")
        assert bay.stick(domid, 2) == path, "the disk is the same"
        assert writer.communicate()[0] == "ok\n"
        assert image.read_bytes() == b"".join(number.to_bytes(4, "little") * 4096 for number in range(1024))
    finally:
        bay.close()


WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for number in range(1024):
    os.pwrite(fd, number.to_bytes(4, "little") * 4096, number << 14)
    if number % 64 == 0:
        os.fsync(fd)
os.fsync(fd)
print("ok")
"""


def _says(handle: object) -> bool:
    try:
        return len(handle.control(Setup(0x80, 6, 0x100, 0, 18))) == 18  # type: ignore[attr-defined]
    except OSError:
        return False


def test_after_usbfront_is_killed_the_devices_are_there_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    bay = Bay(tmp_path_factory.mktemp("bay"))
    try:
        sticks = [f"stick:{bay.image(MiB, name)}" for name in ("image", "other")]
        domid = bay.usb_guest("loopback:", *sticks)
        path = bay.stick(domid, 2)
        names = [bay.stick(domid, port).name for port in (2, 3)]
        assert sorted(names) == ["sda", "sdb"]
        for _ in range(2):
            pid = bay.usb_front()
            os.kill(pid, signal.SIGKILL)
            until(partial(changed, bay.usb_front, pid), SECONDS)
            bay.stage.until_connected(bay.controller(domid))
            until(partial(changed, partial(bay.stick, domid, 2), path), SECONDS)
            path = bay.stick(domid, 2)
            until(lambda: [bay.stick(domid, port).name for port in (2, 3)] == names, SECONDS)
            until(lambda: {place.exported.product for place in bay.places(domid)} == {LOOPBACK, STICK}, SECONDS)
            socket = Path(bay.front_key(domid, "xenfs-usb"))
            assert [*socket.parent.parent.glob("usb-*")] == [socket.parent], "the others are taken away"
    finally:
        bay.close()
