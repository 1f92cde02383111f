"""`xenfs doctor`, and what the others say when something is missing."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

from tests.mounted.command.lab import PROGRAM, SECONDS, Done, Lab
from tests.need import missing, need_tool
from xenfs.commands import checks

pytestmark = pytest.mark.timeout(120)


def test_doctor_has_a_line_for_each_check(lab: Lab) -> None:
    done = lab.xenfs("doctor")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["result", "check", "mend"]
    assert len(lines) == sum(check.applies(os.geteuid()) for check in checks.table())
    assert {line.split()[0] for line in lines} <= {"ok", "missing", "advice"}
    assert done.returncode == any(line.startswith("missing") for line in lines)
    assert all(" to mend it: " in line for line in lines if not line.startswith("ok"))


def without(lab: Lab, setup: str, *words: str) -> Done:
    """Run the command in a mount namespace of its own, in which `setup` has taken something away."""
    if os.geteuid() != 0:
        missing("taking something away for one process needs root")
    script = f'{setup}; exec "$@"'
    return subprocess.run(
        [need_tool("unshare", "util-linux"), "-m", "bash", "-ec", script, "bash", *PROGRAM, *words],
        capture_output=True, text=True, env=lab.environment, timeout=SECONDS, check=False,
    )  # fmt: skip


TAKEN = {
    "/dev/fuse": ("mount -t tmpfs none /dev", "there is no such device"),
    "libfuse.so.2": ("mount --bind /dev/null {libfuse}", "file too short"),
    "CAP_SYS_ADMIN": ('exec {setpriv} "$@"', "not permitted"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_missing_is_told_with_what_mends_it(lab: Lab, name: str) -> None:
    setpriv = f"{need_tool('setpriv', 'util-linux')} --bounding-set -sys_admin --inh-caps -sys_admin"
    setup, why = TAKEN[name]
    setup = setup.format(libfuse=libfuse(), setpriv=setpriv)
    mend = next(check.mend for check in checks.MOUNT if check.name == name)
    done = without(lab, setup, "mount")
    assert done.returncode == 1
    assert done.stderr.startswith(f"xenfs mount: {name}: ")
    assert why in done.stderr
    assert done.stderr.endswith(f"to mend it: {mend}\n")
    done = without(lab, setup, "doctor")
    assert done.returncode == 1
    assert any(line.split()[:2] == ["missing", name] for line in done.stdout.splitlines())
    assert without(lab, setup, "run", "--", "true").returncode == 125
    assert list(lab.home.iterdir()) == []


def libfuse() -> str:
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/libfuse.so.2" in line:
            return line.split()[-1]
    ctypes.CDLL("libfuse.so.2")
    return libfuse()
