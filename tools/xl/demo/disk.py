"""A disk: a file of the host's, blkback, a ring, blkfront, and a filesystem in the guest."""

from __future__ import annotations

import tempfile
from pathlib import Path

import xenfs
from xl.demo.show import Failed, Show

_MEBIBYTES = 64


def perform(show: Show) -> None:
    """Give alpha a disk, put a tree of files on it, and look at it from both sides. Raises Failed."""
    tree = Path(xenfs.__file__).parent
    show.title("a disk: blkfront in the guest, blkback over a file of the host's")
    with tempfile.TemporaryDirectory(prefix="xenfs-demo-") as folder:
        image = Path(folder) / "disk.img"
        show.typed(f"truncate -s {_MEBIBYTES}M {image}")
        with image.open("wb") as file:
            file.truncate(_MEBIBYTES << 20)
        show.run("xenfs", "block-attach", "alpha", f"{image},raw,xvda,rw")
        show.run("xenfs", "block-list", "alpha")
        work = f"mkfs.ext4 -q /dev/xvda; mount /dev/xvda /mnt; cp -r {tree} /mnt/tree; sync; df -h /mnt"
        show.run("xenfs", "exec", "alpha", "--", "sh", "-e", "-c", f"{work}; umount /mnt")
        show.run("xenfs", "ring", "alpha", "vbd-51712-ring")
        check = f"mount -o ro /dev/xvda /mnt; diff -r {tree} /mnt/tree; find /mnt/tree -type f | wc -l; umount /mnt"
        files = show.run("xenfs", "exec", "alpha", "--", "sh", "-e", "-c", check).strip()
        show.run("xenfs", "block-detach", "alpha", "xvda")
        said = show.run("e2fsck", "-fn", str(image))
        if not int(files) or "WARNING" in said:
            raise Failed(f"the filesystem on {image} is not what was put there")
        show.say(
            f"{files} files are the same on the guest's disk as they were, and the host finds the filesystem clean"
        )
