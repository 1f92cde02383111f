"""A USB stick: an image of the host's, usbback, two rings, usbfront, and a filesystem in the guest."""

from __future__ import annotations

import tempfile
from pathlib import Path

from xenfs.domain.mounted import MountedDomain
from xl.demo.show import Failed, Show
from xl.spec import Waiting

_MEBIBYTES, _SECONDS = 16, 10.0
_WORDS = "carried over by hand"


def perform(show: Show) -> None:
    """Plug a stick into alpha, put a file on it, unplug it, plug it into beta, and read the file. Raises Failed."""
    show.title("a USB stick: usbfront in the guests, usbback over a file of the host's")
    with tempfile.TemporaryDirectory(prefix="xenfs-demo-") as folder:
        image = Path(folder) / "stick.img"
        show.typed(f"truncate -s {_MEBIBYTES}M {image}")
        with image.open("wb") as file:
            file.truncate(_MEBIBYTES << 20)
        show.run("xenfs", "usbdev-attach", "alpha", f"device=stick:{image}")
        show.run("xenfs", "usb-list", "alpha")
        _until_sda(show, "alpha")
        show.run("xenfs", "lsusb", "alpha")
        put = f"mkfs.ext4 -q /dev/sda; mount /dev/sda /mnt; echo {_WORDS} > /mnt/letter; umount /mnt"
        show.run("xenfs", "exec", "alpha", "--", "sh", "-e", "-c", put)
        show.run("xenfs", "ring", "alpha", "vusb-0-urb")
        show.run("xenfs", "usbdev-detach", "alpha", "0", "1")
        show.run("xenfs", "usbdev-attach", "beta", f"device=stick:{image}")
        _until_sda(show, "beta")
        got = show.run(
            "xenfs", "exec", "beta", "--", "sh", "-e", "-c", "mount /dev/sda /mnt; cat /mnt/letter; umount /mnt"
        )
        show.run("xenfs", "usbctrl-detach", "beta", "0")
        show.run("xenfs", "usbctrl-detach", "alpha", "0")
        said = show.run("e2fsck", "-fn", str(image))
        if got.strip() != _WORDS or "WARNING" in said:
            raise Failed(f"the filesystem on {image} is not what was put there")
        show.say("the letter was read where it was carried to, and the host finds the filesystem clean")


def _until_sda(show: Show, guest: str) -> None:
    """Wait until the guest has made a disk of it."""
    domid = show.run("xenfs", "domid", guest, quiet=True).strip()
    path = f"/local/domain/{domid}/device/vusb/0/disk/1/xenfs-device"
    with MountedDomain(0, show.point) as root:
        if not Waiting(root.store, path).until(lambda: root.store.exists(path), _SECONDS):
            raise Failed(f"{guest} has no disk within {_SECONDS:.0f} s")
