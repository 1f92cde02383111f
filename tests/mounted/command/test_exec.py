"""`xenfs exec`: a program in a domain, whose devices are its /dev/xen."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.mounted.command.lab import PROGRAM, Lab
from tests.mounted.command.test_user import as_nobody, reachable
from tests.need import missing, need_tool
from xenfs.commands.place import MOUNTINFO

__all__ = ["reachable"]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def xen(xen: Lab) -> Lab:
    """A machine with domains 1 and 2."""
    for _ in range(2):
        xen.fine("domain", "create")
    return xen


def inside(xen: Lab, domain: str, script: str) -> str:
    return xen.fine("exec", domain, "--", "sh", "-c", script)


def nodes(names: Iterable[str]) -> list[str]:
    """Those of /dev, but for the loop devices, which come and go with their partitions."""
    return sorted(name for name in names if not name.startswith("loop"))


def host() -> tuple[list[str], list[str]]:
    """What the host has mounted below /dev, and what is there."""
    mounts = [line for line in Path(MOUNTINFO).read_text().splitlines() if line.split()[4].startswith("/dev")]
    return mounts, nodes(path.name for path in Path("/dev").iterdir())


def test_the_devices_of_a_domain_are_its_dev_xen_and_the_hosts_stays_as_it_is(xen: Lab) -> None:
    before = host()
    started = xen.start(*PROGRAM, "exec", "1", "--", "sh", "-c", "ls /dev/xen; echo end; read answer")
    assert started.stdout is not None
    said = list(iter(started.stdout.readline, "end\n"))
    assert {"evtchn\n", "gntalloc\n", "gntdev\n", "hypercall\n", "xenbus\n"} <= set(said)
    assert host() == before
    started.communicate("\n", timeout=30)
    assert started.returncode == 0
    assert host() == before


def test_which_domain_it_is(xen: Lab) -> None:
    said = inside(xen, "2", 'echo "$XEN $XEN_DOMID $COLUMNS"; stat -c %i /dev/xen/evtchn')
    inode = (Path(xen.point) / "domains/2/dev/evtchn").stat().st_ino
    assert said == f"{xen.point} 2 200\n{inode}\n"
    assert inside(xen, "domain-1", "echo $XEN_DOMID $XENSTORED_PATH") == "1 /dev/xen/xenbus\n"
    assert inside(xen, "Domain-0", "echo $XEN_DOMID") == "0\n"


def test_the_rest_of_dev_is_the_hosts(xen: Lab) -> None:
    names = "ls /dev | grep -v ^xen$"
    assert nodes(inside(xen, "1", names).split()) == [name for name in host()[1] if name != "xen"]
    assert inside(xen, "1", "echo gone > /dev/null; head -c 2 /dev/zero | od -An -c") == "  \\0  \\0\n"
    assert inside(xen, "1", "echo here > /dev/shm/$$; cat /dev/shm/$$; rm /dev/shm/$$") == "here\n"
    assert inside(xen, "1", "echo fd > /dev/fd/1; cat /dev/fd/0 < /proc/self/comm; test -d /dev/pts") == "fd\nsh\n"


def test_one_domain_within_another(xen: Lab) -> None:
    words = ["exec", "1", "--", *PROGRAM, "exec", "2", "--", "sh", "-c", "echo $XEN_DOMID; stat -c %i /dev/xen/gntdev"]
    inode = (Path(xen.point) / "domains/2/dev/gntdev").stat().st_ino
    assert xen.fine(*words) == f"2\n{inode}\n"


def test_the_command_becomes_the_program(xen: Lab) -> None:
    started = xen.start(*PROGRAM, "exec", "1", "--", "sh", "-c", "echo $$; trap 'exit 9' USR1; kill -USR1 $$")
    said, _ = started.communicate(timeout=30)
    assert (int(said), started.returncode) == (started.pid, 9)
    started = xen.start(*PROGRAM, "exec", "1", "--", "sh", "-c", "kill -KILL $$")
    started.communicate(timeout=30)
    assert started.returncode == -signal.SIGKILL
    check = "import signal; print(signal.getsignal(signal.SIGXFSZ) is signal.SIG_DFL, signal.pthread_sigmask(0, []))"
    assert inside(xen, "1", f'python3 -I -c "{check}"') == "False set()\n"  # Python itself ignores it


_UNMOUNT = """
mkdir "$1" "$2"
mount -t tmpfs there "$1"
script="mount -t tmpfs guests $2; echo begun; read x; cut -d' ' -f2 /proc/self/mounts; echo end"
coproc guest { "${@:3}" sh -c "$script"; }
exec 4<&"${guest[0]}" 5>&"${guest[1]}"
read -r -u 4 begun
umount "$1"
grep -c " $2 " /proc/self/mounts || true
echo >&5
while read -r -u 4 where && [ "$where" != end ]; do echo "$where"; done
"""


def test_what_the_host_unmounts_is_not_kept_and_what_the_guest_mounts_is_its_own(xen: Lab, tmp_path: Path) -> None:
    if os.geteuid():
        missing("root, who may mount")
    shared = [need_tool("unshare", "util-linux"), "-m", "--propagation", "shared", "bash", "-ec", _UNMOUNT, "bash"]
    places = [str(tmp_path / "hosts"), str(tmp_path / "guests")]
    done = subprocess.run(
        [*shared, *places, *PROGRAM, "exec", "1", "--"], env=xen.environment, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    seen, *mounts = done.stdout.splitlines()
    assert seen == "0"
    assert {places[1], "/dev/xen"} <= set(mounts)
    assert places[0] not in mounts


@pytest.mark.parametrize(("program", "code"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_what_cannot_run(xen: Lab, program: str, code: int) -> None:
    assert xen.fails("exec", "1", "--", program, code=code).startswith(f"{program}: ")


def test_where_there_is_no_machine_or_domain(lab: Lab) -> None:
    assert lab.fails("exec", "1", "--", "true", code=125) == f"{lab.point}: not mounted"
    lab.fine("mount", "--frames", "20000")
    assert lab.fails("exec", "1", "--", "true", code=125) == "there is no domain 1"
    pid = lab.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert lab.fails("exec", "0", "--", "true", code=125) == f"the daemon of {lab.point} does not answer"
    finally:
        os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGKILL)
    lab.wait_mounts(lambda mounts: bool(mounts))
    assert "stale" in lab.fails("exec", "0", "--", "true", code=125)


def test_an_ordinary_user_enters_by_a_user_namespace_or_is_told_why_not(reachable: Lab) -> None:
    reachable.fine("mount")
    for user in ("root", "65534"):
        reachable.fine("domain", "create", "--user", user)
    script = f"""
        export XEN={reachable.point}; cd /
        x exec 1 -- true; echo "status $?"
        x exec 2 -- sh -c 'id -u; ls /dev/xen | head -1; grep CapEff /proc/self/status'; echo "status $?"
    """
    done = as_nobody(reachable, script)
    first, *said = done.stdout.splitlines()
    assert first == "status 125"
    assert "xenfs exec: domain 1 belongs to another user\n" in done.stderr
    if "no user namespace" in done.stderr:
        assert (said, "be root" in done.stderr) == (["status 125"], True)
    else:
        assert said == ["65534", "evtchn", "CapEff:\t0000000000000000", "status 0"]
