"""The `xenfs` command as installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from xenfs.hypervisor.table import ROWS


def xenfs(*words: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
    program = f"{before}\nfrom xenfs.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_version() -> None:
    assert xenfs("--version").stdout == f"xenfs {version('xenfs')}\n"


def test_a_subcommand_that_cannot_be_loaded_is_in_nobodys_way(tmp_path: Path) -> None:
    metadata = tmp_path / "other-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[xenfs.commands]\nbroken = no_such_module:work\n")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    done = xenfs("broken", "--some", "words", before=program)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "xenfs broken: it cannot be loaded: No module named 'no_such_module'\n"
    done = xenfs("--help", before=program)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Not installed: No module named 'no_such_module'" in done.stdout
    assert xenfs("hypercalls", before=program).returncode == 0


def test_every_hypercall_is_described() -> None:
    done = xenfs("hypercalls")
    assert done.returncode == 0
    paragraphs = done.stdout.strip().split("\n\n")
    assert [p.split()[0] for p in paragraphs] == [row.name for row in ROWS]
    transfer = next(p for p in paragraphs if p.startswith("transfer "))
    assert "grant_table_op 4 (op 0x1404), 24 bytes, for any domain" in transfer
    assert "error EBUSY GNTST_bad_page" in transfer


def test_hypercalls_as_json() -> None:
    done = xenfs("hypercalls", "--json", "alloc_unbound", "send")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows] == ["alloc_unbound", "send"]
    assert rows[0]["fields"][2] == {"name": "port", "type": "u32", "offset": 4, "out": True, "default": 0}


def test_an_unknown_hypercall_is_a_usage_error() -> None:
    done = xenfs("hypercalls", "no_such")
    assert done.returncode == 2
    assert "no_such" in done.stderr


def test_the_demo_shows_a_ring_and_a_flip_and_leaves_nothing() -> None:
    done = xenfs("demo-ring", "--in-process", "--requests", "3000", "--pages", "5")
    assert done.returncode == 0, done.stderr
    assert "3000 requests through one shared page" in done.stdout
    assert "flipped 5 of 5 pages; domain 1 reads: packet 0 … packet 4" in done.stdout
    assert "nothing is left in use" in done.stdout
    assert done.stderr == ""


def test_the_demo_without_a_mount_names_the_way_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XEN", raising=False)
    done = xenfs("demo-ring", before="import xenfs.demo; xenfs.demo.obstacle = lambda: '/dev/fuse: not permitted'")
    words = "or try xenfs demo-ring --in-process, which needs no mount"
    assert (done.returncode, done.stderr) == (1, f"xenfs demo-ring: /dev/fuse: not permitted; {words}\n")
