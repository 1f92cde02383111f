"""`xenfs domain`: made, listed, ended and given away."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.mounted.command.lab import PROGRAM, Lab, on_terminal
from tests.need import missing
from xenfs.commands.child import ask

pytestmark = pytest.mark.timeout(120)


def test_domains_are_made_listed_and_ended(xen: Lab) -> None:
    assert xen.fine("domain", "create", "--name", "web", "--frames", "10", "--max", "20") == "1\n"
    assert xen.fine("domain", "create", "--name", "two words") == "2\n"
    rows = [json.loads(line) for line in xen.fine("domain", "list", "--json").splitlines()]
    assert [(r["domid"], r["name"], r["owned"], r["max"]) for r in rows[1:]] == [
        (1, "web", 10, 20),
        (2, "two words", 1024, 1024),
    ]
    table = xen.fine("domain", "list").splitlines()
    assert table[0].split() == [
        "domid", "name", "state", "user", "owned", "max", "granted", "mapped", "in_flight", "ports",
    ]  # fmt: skip
    assert table[2].split()[:3] == ["1", "web", "running"]
    assert xen.fine("domain", "destroy", "web") == ""
    assert xen.fine("domain", "destroy", "2") == ""
    assert len(xen.fine("domain", "list").splitlines()) == 2
    assert xen.fine("domain", "create") == "1\n"
    assert len(xen.read("domains/1/uuid")) == 37


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "--name", "Domain-0"], "name 'Domain-0': domain 0 has it"),
        (["create", "--frames", "30000"], "frames"),
        (["create", "--name", "x" * 99], "name="),
        (["create", "--name", "a\nb"], "name="),
        (["create", "--user", "no-such-user"], "there is no user no-such-user"),
        (["destroy", "7"], "there is no domain 7"),
        (["destroy", "0"], "domain 0"),
    ],
)
def test_a_domain_that_cannot_be(xen: Lab, words: list[str], said: str) -> None:
    assert said in xen.fails("domain", *words)
    assert len(xen.fine("domain", "list").splitlines()) == 2


def test_a_domain_is_given_to_a_user(xen: Lab) -> None:
    if os.geteuid() != 0:
        missing("only root may give a domain away")
    assert xen.fine("domain", "create", "--user", "nobody") == "1\n"
    assert ask(lambda: Path(xen.point, "domains/1").stat().st_uid) == 65534
    assert json.loads(xen.fine("domain", "list", "--json").splitlines()[1])["user"] == "nobody"


def test_domain_without_a_machine(lab: Lab) -> None:
    assert lab.fails("domain", "list") == f"{lab.point}: not mounted"


def test_tables_are_for_terminals(xen: Lab) -> None:
    said = on_terminal(xen, [*PROGRAM, "domain", "list"], lambda _: b"")
    assert "\x1b[1m" in said
    assert "Domain-0" in said
    assert "\x1b" not in xen.fine("domain", "list")
