"""What a test needs of the machine: without it the test skips and says what to install, or fails in CI.

CI sets XENFS_REQUIRE=1, so that no test passes there by not running.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip with `reason`, or fail with it where everything must be present."""
    if os.environ.get("XENFS_REQUIRE") == "1":
        pytest.fail(f"XENFS_REQUIRE=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def need_tool(name: str, package: str) -> str:
    """The path of a program on PATH."""
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed: apt-get install {package}")
    return found


def need_header(path: str, package: str) -> Path:
    """The path of a C header, given as it is included: `xen/io/ring.h`."""
    header = Path("/usr/include", path)
    if not header.exists():
        missing(f"{header} is not installed: apt-get install {package}")
    return header
