"""USB for an ordinary user, who has neither loop devices nor a network of the guest's own."""

from __future__ import annotations

import pytest

from tests.mounted.command.lab import Lab
from tests.mounted.command.test_user import as_nobody, reachable

__all__ = ["reachable"]
pytestmark = pytest.mark.timeout(120)
SCRIPT = """
cd "$TMPDIR"; truncate -s 1M image; dd if=/dev/urandom of=data bs=1000 count=100 status=none
printf 'name="mine"\\nmemory=8\\nusbdev=["device=stick:%s", "device=loopback:"]\\n' "$TMPDIR/image" > mine.cfg
x mount && x devd && x create -q mine.cfg
until file=$(x store read /local/domain/1/device/vusb/0/disk/1/xenfs-file 2>&-); do :; done
dd if=data of="$file" bs=777 seek=3 conv=notrunc,fsync status=none
cmp -n 100000 -i 0:2331 data image && cmp "$file" image && echo same
x store exists /local/domain/1/device/vusb/0/disk/1/xenfs-device || echo a file only
x store exists /local/domain/1/device/vusb/0/xenfs-usbip || echo not on the network
until x lsusb mine | grep -q Loopback; do :; done; x lsusb mine
x usbdev-detach mine 0 1; x usbctrl-detach mine 0; x destroy mine
kill $(cat "$XEN.run/devd-0.pid"); x umount; echo $?
grep -c "$TMPDIR" /proc/self/mounts
"""


def test_an_ordinary_user_has_everything_but_the_block_device(reachable: Lab) -> None:
    done = as_nobody(reachable, SCRIPT)
    *lines, last, left = done.stdout.splitlines()
    assert lines[:3] == ["same", "a file only", "not on the network"], done.stderr
    assert sorted(line.partition("ID ")[2] for line in lines[3:]) == [
        "1209:5854 xenfs USB stick",
        "1209:5857 xenfs Loopback",
    ]
    assert (last, left) == ("0", "0")
