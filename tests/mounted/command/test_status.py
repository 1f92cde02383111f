"""`xenfs status`."""

from __future__ import annotations

import json

import pytest

from tests.mounted.command.lab import Lab

pytestmark = pytest.mark.timeout(120)


def test_status_of_a_machine(xen: Lab) -> None:
    first, table = xen.fine("status").split("\n\n")
    said = dict(line.split(None, 1) for line in first.splitlines())
    assert said["mount"] == xen.point
    assert said["frames"] == "20000 total, 15904 free"
    assert said["pid"] == str(xen.pid())
    assert [line.split()[:3] for line in table.splitlines()] == [
        ["domid", "name", "state"],
        ["0", "Domain-0", "running"],
    ]


def test_status_where_nothing_is_mounted(lab: Lab) -> None:
    assert lab.fails("status", code=3) == f"{lab.point}: not mounted"
    done = lab.xenfs("status", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout) == {"mount": lab.point, "condition": "not mounted", "pid": None}
