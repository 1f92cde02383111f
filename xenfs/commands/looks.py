"""Ways to look at one thing of the system. Each gives what is wrong with it, None when nothing is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

Look = Callable[[], str | None]
"""Gives what is wrong, None when nothing is."""


def device(path: str) -> Look:
    """It is there, and we may read and write it."""

    def look() -> str | None:
        if not Path(path).exists():
            return "there is no such device"
        return None if os.access(path, os.R_OK | os.W_OK) else "not permitted"

    return look


def library(name: str) -> Look:
    """It loads."""

    def look() -> str | None:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            return str(error)
        return None

    return look


def program(*names: str) -> Look:
    """One of them is on PATH."""
    return lambda: None if any(map(shutil.which, names)) else "not installed"


def line_in(path: str, line: str) -> Look:
    """A configuration file has the line."""

    def look() -> str | None:
        with contextlib.suppress(OSError):
            if any(said.strip() == line for said in Path(path).read_text().splitlines()):
                return None
        return f"{path} does not say it"

    return look


def number(path: str, least: int | None = None, most: int | None = None) -> Look:
    """A file of /proc/sys holds a number within bounds; a file that is not there bounds nothing."""

    def look() -> str | None:
        try:
            value = int(Path(path).read_text())
        except (OSError, ValueError):
            return None
        return within(value, least, most)

    return look


def within(value: int, least: int | None = None, most: int | None = None) -> str | None:
    """What is wrong with a number."""
    if least is not None and value < least:
        return f"{value}, less than {least}"
    return f"{value}, more than {most}" if most is not None and value > most else None


def descriptors(least: int) -> Look:
    """Open files a process may have, once it asks for all it can get."""

    def look() -> str | None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        return None if hard == resource.RLIM_INFINITY else within(hard, least)

    return look


def capability(bit: int) -> Look:
    """Root really has the capability: in a container it may not."""

    def look() -> str | None:
        match = re.search(r"^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
        return None if match and int(match[1], 16) >> bit & 1 else "not permitted"

    return look


def writable(pattern: str, root: str = "/") -> Look:
    """The files that a pattern names are there, and may be written."""

    def look() -> str | None:
        files = list(Path(root).glob(pattern))
        if not files:
            return "this kernel does not have it"
        return None if os.access(files[0], os.W_OK) else "not permitted"

    return look


def version(name: str, have: str, least: tuple[int, int]) -> Look:
    """A version is not older than that."""

    def look() -> str | None:
        numbers = tuple(map(int, re.findall(r"\d+", have)[:2]))
        return None if numbers >= least else f"{name} {have} is older than {least[0]}.{least[1]}"

    return look


def package(name: str) -> Look:
    """The Debian package is installed; nothing is wrong where there is no dpkg."""

    def look() -> str | None:
        if shutil.which("dpkg-query") is None:
            return None
        words = ["dpkg-query", "-W", "-f", "${Status}", name]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return None if done.stdout.endswith("ok installed") else "not installed"

    return look
