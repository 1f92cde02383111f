"""`xenfs mount` and `xenfs umount`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounted.command.lab import PROGRAM, SECONDS, Lab, line_of, running, wait_ended
from tests.need import need_tool
from xenfs.commands.place import MOUNTINFO

pytestmark = pytest.mark.timeout(120)


def test_a_machine_is_there_when_mount_returns_and_gone_when_umount_does(lab: Lab) -> None:
    assert lab.fine("mount") == ""
    (mount,) = lab.mounts()
    assert (mount.point, mount.fstype, mount.source) == (lab.point, "fuse.xenfs", "xenfs")
    assert lab.read("hypervisor/version").startswith("xenfs ")
    pid = lab.pid()
    assert int(lab.read("hypervisor/pid")) == pid
    assert lab.fine("umount") == ""
    assert lab.mounts() == []
    assert not running(pid)
    assert list(lab.home.iterdir()) == [lab.home / "xen"]


def test_the_daemon_is_detached(xen: Lab) -> None:
    pid = xen.pid()
    assert os.getsid(pid) == pid
    home = Path("/proc", str(pid))
    found = [str((home / link).readlink()) for link in ("cwd", "fd/0", "fd/2")]
    assert found == ["/", "/dev/null", f"{xen.point}.log"]


def test_a_place_is_made_with_all_above_it_and_may_have_odd_characters(lab: Lab) -> None:
    place = f"{lab.home}/a b/c\\d/e#f\tg"
    lab.fine("mount", place)
    assert [m.point for m in lab.mounts()] == [place]
    assert json.loads(lab.fine("status", "--json", place))["mount"] == place
    lab.fine("umount", place)


def test_a_place_may_be_named_by_a_symlink_or_relatively(xen: Lab) -> None:
    link = xen.home / "link"
    link.symlink_to(xen.point)
    assert "already mounted" in xen.fails("mount", str(link))
    relative = os.path.relpath(xen.point)
    assert xen.fine("status", relative).splitlines()[0].split() == ["mount", xen.point]
    xen.fine("umount", str(link))


def test_mount_after_umount(xen: Lab) -> None:
    for _ in range(3):
        xen.fine("umount")
        xen.fine("mount")


def test_the_machine_has_the_frames_that_are_asked_for(lab: Lab) -> None:
    lab.fine("mount", "--frames", "5000", "--dom0-frames", "100")
    status = json.loads(lab.fine("status", "--json"))
    assert status["frames"] == {"total": 5000, "free": 4900}


def test_a_second_mount_says_that_there_is_one(xen: Lab) -> None:
    assert xen.fails("mount") == f"{xen.point}: already mounted, by the daemon with pid {xen.pid()}"
    assert len(xen.mounts()) == 1


def test_of_two_mounts_at_once_one_wins(lab: Lab) -> None:
    both = [lab.start(*PROGRAM, "mount") for _ in range(2)]
    for one in both:
        one.communicate(timeout=SECONDS)
    assert sorted(one.returncode for one in both) == [0, 1]
    assert len(lab.mounts()) == 1
    lab.fine("umount")
    assert lab.daemons() == []


def test_umount_of_what_is_not_mounted(lab: Lab) -> None:
    assert lab.fails("umount") == f"{lab.point}: not mounted"
    assert lab.fails("umount", "--force", str(lab.home / "none")) == f"{lab.home}/none: not mounted"
    assert lab.fails("umount", "/proc") == "/proc: not mounted"


def test_a_place_that_cannot_be_made(lab: Lab) -> None:
    (lab.home / "file").write_text("")
    assert lab.fails("mount", f"{lab.home}/file").endswith("/file: it is not a directory")
    assert lab.fails("mount", f"{lab.home}/file/xen").endswith("/file/xen: Not a directory")
    assert lab.fails("mount", "/proc/xenfs").endswith("/proc/xenfs: No such file or directory")


def test_a_place_with_something_in_it(lab: Lab) -> None:
    (lab.home / "xen").mkdir()
    (lab.home / "xen" / "file").write_text("")
    assert "mountpoint is not empty" in lab.fails("mount")
    assert (lab.home / "xen" / "file").exists()


def test_the_log_is_beside_the_mount_and_nobodys_file_is_lost(lab: Lab) -> None:
    log = Path(f"{lab.point}.log")
    log.write_text("mine\n")
    assert "cannot mount" in lab.fails("mount", "-o", "max_read=x")
    lab.fine("mount")
    lab.fine("umount")
    assert log.read_text() == "mine\n"
    log.unlink()
    other = lab.home / "other"
    other.write_text("")
    log.symlink_to(other)
    lab.fine("mount")
    assert str(Path(f"/proc/{lab.pid()}/fd/2").readlink()) != str(other)
    lab.fine("umount")
    assert log.is_symlink()


def test_an_option_without_sense(lab: Lab) -> None:
    assert "cannot mount" in lab.fails("mount", "-o", "max_read=x")
    assert lab.daemons() == []
    assert list(lab.home.iterdir()) == []


@pytest.mark.parametrize("option", ["bogus", "ro=1", "fsname", "rw,bogus", "allow_root"])
def test_an_option_that_there_is_not(lab: Lab, option: str) -> None:
    said = lab.fails("mount", "-o", option, code=2)
    assert said.startswith(f"-o {option.removeprefix('rw,')}: there is no such option; known are allow_other, async, ")
    assert "max_read=" in said
    assert "there is no such option" in lab.fails("run", "-o", option, "--", "true", code=125)
    assert lab.daemons() == []
    assert list(lab.home.iterdir()) == []


def test_options_reach_the_mount(lab: Lab) -> None:
    lab.fine("mount", "-o", "noexec,noatime")
    line = next(line for line in Path(MOUNTINFO).read_text().splitlines() if lab.point in line)
    assert {"noexec", "noatime"} <= set(line.split()[5].split(","))


def test_a_machine_that_is_too_small_for_domain_0(lab: Lab) -> None:
    said = "the machine needs at least 4096 frames, which domain 0 has; --frames gives it 10"
    assert lab.fails("mount", "--frames", "10") == said
    assert lab.fails("run", "--frames", "10", "--", "true", code=125) == said
    assert list(lab.home.iterdir()) == []
    lab.fine("mount", "--frames", "10", "--dom0-frames", "10")


def test_wrong_usage(lab: Lab) -> None:
    assert lab.xenfs("mount", "--no-such").returncode == 2
    assert lab.xenfs("mount", "--frames", "x").returncode == 2
    assert lab.xenfs("mount", "--frames", "0").returncode == 2


def test_a_mount_in_use_is_left_alone(xen: Lab) -> None:
    user = xen.start("cat", cwd=xen.point)
    assert xen.fails("umount") == f"{xen.point}: in use by {user.pid} (cat); end them, or use --lazy"
    assert xen.fine("status")
    assert xen.fine("umount", "--lazy") == ""
    assert xen.mounts() == []
    user.communicate(timeout=10)


def test_a_mount_with_an_open_or_mapped_file_is_in_use(xen: Lab) -> None:
    program = (
        "import mmap, os, sys\n"
        "from pathlib import Path\n"
        "fd = os.open(os.environ['XEN'] + '/hypervisor/version', os.O_RDONLY)\n"
        "print('open', flush=True); input(); sys.exit()"
    )
    user = xen.start(sys.executable, "-c", program)
    assert line_of(user) == "open"
    assert f"in use by {user.pid} (python" in xen.fails("umount")
    user.communicate("\n", timeout=10)
    xen.fine("umount")


def test_the_daemons_own_pipes_are_no_users(xen: Lab) -> None:
    script = "exec 3<>$XEN/domains/0/ctl; echo alloc_unbound remote_dom=0 >&3; read -r a <&3; echo $a; read x"
    holder = xen.start("bash", "-c", script)
    assert line_of(holder) == "ok port=1"
    assert xen.read("domains/0/evtchn/1/info").startswith("state=unbound")
    assert f"in use by {holder.pid} (bash)" in xen.fails("umount")
    assert xen.fine("umount", "--lazy") == ""
    assert xen.mounts() == []


def test_the_foreground_ends_with_a_signal(lab: Lab) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        daemon = lab.start(*PROGRAM, "mount", "-f")
        lab.wait_mounts(lambda seen: len(seen) == 1)
        assert lab.pid() == daemon.pid
        daemon.send_signal(number)
        _, said = daemon.communicate(timeout=SECONDS)
        assert (daemon.returncode, said) == (0, "")
        assert lab.mounts() == []


def test_debugging_tells_each_request(lab: Lab) -> None:
    daemon = lab.start(*PROGRAM, "mount", "-f", "-d")
    lab.wait_mounts(lambda seen: len(seen) == 1)
    assert lab.pid() == daemon.pid
    daemon.send_signal(signal.SIGTERM)
    _, said = daemon.communicate(timeout=SECONDS)
    assert daemon.returncode == 0
    assert "opcode: LOOKUP" in said


def test_the_daemon_ends_with_a_signal_and_unmounts(xen: Lab) -> None:
    pid = xen.pid()
    os.kill(pid, signal.SIGTERM)
    wait_ended(pid)
    assert xen.mounts() == []
    assert xen.fails("umount") == f"{xen.point}: not mounted"


def test_an_unmount_from_outside_ends_the_daemon(xen: Lab) -> None:
    umount = need_tool("umount" if os.geteuid() == 0 else "fusermount", "mount")
    pid = xen.pid()
    subprocess.run([umount, *(["-u"] if os.geteuid() else []), xen.point], check=True, timeout=SECONDS)
    wait_ended(pid)
