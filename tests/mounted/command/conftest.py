"""A lab for each test, which ends what the test has mounted, also on failure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.command.lab import Lab
from tests.need import missing
from xenfs.commands import checks


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    if problem := checks.obstacle():
        missing(problem)
    made = Lab(tmp_path.resolve())
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def xen(lab: Lab) -> Lab:
    """A lab with its machine mounted."""
    lab.fine("mount", "--frames", "20000")
    return lab
