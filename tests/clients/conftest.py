"""A mount, C programs, and the domains that they run in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted.conftest import folder, mnt, shared_mounts
from tests.mounted.mount import Xen
from tests.need import need_header, need_tool

__all__ = ["built", "folder", "inside", "mnt", "shared_mounts"]

HERE = Path(__file__).parent
SECONDS = 60.0
Inside = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles a C program of this folder, once."""
    made: dict[str, Path] = {}
    into = tmp_path_factory.mktemp("programs")

    def build(source: str, *words: str, strict: bool = True) -> Path:
        if source not in made:
            compiler = need_tool("gcc", "gcc")
            need_header("xenevtchn.h", "libxen-dev")
            program = into / Path(source).stem
            flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror"] if strict else ["-w"]
            command = [compiler, "-O1", *flags, "-o", str(program), str(HERE / source), *words]
            subprocess.run(command, check=True, timeout=SECONDS)
            made[source] = program
        return made[source]

    return build


@pytest.fixture
def inside(mnt: Xen) -> Iterator[Inside]:
    """Starts a program in a domain, by `xenfs exec`; it is killed at the end if it still runs."""
    started: list[subprocess.Popen[str]] = []

    def start(domid: int, *words: str | Path) -> subprocess.Popen[str]:
        code = "from xenfs.cli import main; main()"
        command = [sys.executable, "-c", code, "exec", str(domid), "--", *map(str, words)]
        environment = mnt.environment()
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=SECONDS)


def said(process: subprocess.Popen[str]) -> str:
    """What a program said until its end, which must be a good one."""
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (0, "")
    return out
