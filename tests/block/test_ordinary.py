"""A disk for an ordinary user, who has no loop devices: it is a file."""

from __future__ import annotations

import pytest

from tests.mounted.command.lab import Lab
from tests.mounted.command.test_user import as_nobody, reachable

__all__ = ["reachable"]
pytestmark = pytest.mark.timeout(120)
SCRIPT = """
cd "$TMPDIR"; truncate -s 8M image; dd if=/dev/urandom of=data bs=64k count=4 status=none
echo 'name="mine"' > mine.cfg; echo 'memory=8' >> mine.cfg; echo "disk=['$TMPDIR/image,raw,xvda,rw']" >> mine.cfg
x mount && x devd && x create -q mine.cfg
until file=$(x store read /local/domain/1/device/vbd/51712/xenfs-file 2>&-); do :; done
stat -c %s "$file"
dd if=data of="$file" bs=4000 seek=3 conv=notrunc,fsync status=none
cmp -n 262144 -i 0:12000 data image && cmp "$file" image && echo same
fusermount -u "$(dirname "$file")"
until new=$(x store read /local/domain/1/device/vbd/51712/xenfs-file 2>&-) && [ "$new" != "$file" ]; do :; done
cmp "$new" image && echo made anew
x store exists /local/domain/1/device/vbd/51712/xenfs-device || echo a file only
x block-detach mine xvda; x destroy mine
kill $(cat "$XEN.run/devd-0.pid"); x umount; echo $?
grep -c "$TMPDIR" /proc/self/mounts
"""


def test_an_ordinary_user_has_the_disk_as_a_file(reachable: Lab) -> None:
    done = as_nobody(reachable, SCRIPT)
    assert done.stdout == f"{8 << 20}\nsame\nmade anew\na file only\n0\n0\n", done.stderr


ENDS = {"umount": "x umount --lazy", "killed": "kill -9 $(cat $XEN/hypervisor/pid); x umount"}


@pytest.mark.parametrize("how", ENDS)
def test_an_ordinary_users_disks_are_not_left_mounted_by_the_dead(reachable: Lab, how: str) -> None:
    script = f"""
        cd "$TMPDIR"; truncate -s 1M image
        printf 'name="mine"\nmemory=8\ndisk=["%s,raw,xvda,rw"]\n' "$TMPDIR/image" > mine.cfg
        x mount && x devd && x create -q mine.cfg
        until file=$(x store read /local/domain/1/device/vbd/51712/xenfs-file 2>&-); do :; done
        keeper=$(cat $XEN.run/1/keeper.pid)
        {ENDS[how]}
        tail --pid=$keeper -f /dev/null
        grep -c "$TMPDIR" /proc/self/mounts
        x mount; ls "$XEN.run" 2>&-; x umount
        ls -d "$XEN.run" 2>&-
    """
    done = as_nobody(reachable, script)
    assert done.stdout == "0\n", done.stderr
