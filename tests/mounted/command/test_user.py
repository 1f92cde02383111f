"""The command for an ordinary user, and beside the machines of others."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.command.lab import PROGRAM, SECONDS, Done, Lab
from tests.need import missing, need_tool
from xenfs.commands import checks

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).parents[3]


def ordinary_python() -> list[str]:
    """An interpreter like this one that every user can run."""
    check = "import sys; print(sys.version_info[:2])"
    for candidate in (sys.executable, "/usr/bin/python3"):
        shell = ["sh", "-c", 'exec "$@"', "sh"]  # setpriv itself still has the right to run anything
        words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *shell, candidate, "-c", check]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS)
        if done.stdout.strip() == str(sys.version_info[:2]):
            return [candidate, "-c", PROGRAM[-1]]
    return missing("no interpreter that an ordinary user can run has this version of Python")


ORDINARY = """
mknod -m 666 "$HOME_OF_TEST/fuse" c 10 229
mount --bind "$HOME_OF_TEST/fuse" /dev/fuse
mkdir "$HOME_OF_TEST/user"; chown nobody "$HOME_OF_TEST/user"; chmod 755 "$HOME_OF_TEST"
if test -e /etc/fuse.conf; then touch "$HOME_OF_TEST/conf"; mount --bind "$HOME_OF_TEST/conf" /etc/fuse.conf; fi
set +e
setpriv --reuid=65534 --regid=65534 --clear-groups bash -c "$1" "$@"
status=$?
shift; python=("$@"); x() { "${python[@]}" "$@"; }
eval "$THEN"
exit $status
"""
"""In a mount namespace of its own: /dev/fuse for everybody, and no fuse.conf."""


def as_nobody(lab: Lab, script: str, then: str = "") -> Done:
    """Run a script as nobody, who may use /dev/fuse, `then` one as root; in both, `x` is the command."""
    if os.geteuid() != 0:
        missing("becoming another user needs root")
    for tool in ("setpriv", "unshare"):
        need_tool(tool, "util-linux")
    need_tool("fusermount", "fuse3")
    packages = sysconfig.get_path("purelib")
    environment = {
        **lab.environment,
        "PYTHONPATH": ":".join([str(ROOT), f"{ROOT}/drivers", f"{ROOT}/tools", packages]),
        "HOME_OF_TEST": str(lab.home),
        "XEN": f"{lab.home}/user/xen",
        "TMPDIR": f"{lab.home}/user",
        "THEN": then,
    }
    script = 'x() { "${python[@]}" "$@"; }; python=("$@")\n' + script
    return subprocess.run(
        ["unshare", "-m", "bash", "-ec", ORDINARY, "bash", script, *ordinary_python()],
        capture_output=True, text=True, env=environment, timeout=SECONDS, check=False, cwd="/",
    )  # fmt: skip


@pytest.fixture
def reachable() -> Iterator[Lab]:
    """A lab that every user can reach."""
    if problem := checks.obstacle():
        missing(problem)
    with tempfile.TemporaryDirectory(prefix="xenfs-test-") as home:
        made = Lab(Path(home).resolve())
        try:
            yield made
        finally:
            made.close()


def test_an_ordinary_user_has_a_machine_of_their_own(reachable: Lab) -> None:
    script = """
    x mount && x status && x domain create --name mine && x domain destroy mine && x trace >/dev/null
    x domain create --user root; x run --domains 1 -- ls
    x umount; echo $?; x status; echo $?
    """
    done = as_nobody(reachable, script)
    assert "xenfs domain create: only root may give a domain to root\n" in done.stderr
    assert done.stderr.endswith(f"xenfs status: {reachable.home}/user/xen: not mounted\n")
    assert done.stdout.startswith("mount    ")
    assert done.stdout.endswith("0\n3\n")
    assert "\n1\n" in done.stdout
    assert reachable.daemons() == []


def test_an_ordinary_user_needs_permission_for_the_device_and_the_place(reachable: Lab) -> None:
    script = "x mount /run/xenfs-of-nobody; x mount /var/x; x mount /usr; x doctor | grep /dev/fuse"
    done = as_nobody(reachable, script)
    first, second, third = done.stderr.splitlines()
    assert first == "xenfs mount: /run/xenfs-of-nobody: Permission denied"
    assert second == "xenfs mount: /var/x: Permission denied"
    assert third.startswith("xenfs mount: cannot mount on /usr")
    assert done.stdout.split()[:2] == ["ok", "/dev/fuse"]


def test_root_ends_the_machine_of_another_that_is_closed_to_it(reachable: Lab) -> None:
    done = as_nobody(reachable, "x mount", then="x status; echo $?; x umount; echo $?; x status; echo $?")
    place = f"{reachable.home}/user/xen"
    assert done.stdout == "1\n0\n3\n"
    assert done.stderr.splitlines() == [
        f"xenfs status: {place}: mounted by user 65534, for nobody else",
        f"xenfs status: {place}: not mounted",
    ]


def test_an_ordinary_user_cannot_end_the_machine_of_another(reachable: Lab) -> None:
    reachable.fine("mount")
    done = as_nobody(reachable, f"x umount {reachable.point}; x umount --force {reachable.point}; x domain list")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 3
    assert reachable.fine("status")
