"""Files that are values, and pages written by hand."""

from __future__ import annotations

import errno
import os
import re

import pytest

from tests.mounted.inside import PAGE, mapped
from tests.mounted.mount import Xen
from tests.mounted.tree import Tree, run

MAX_OFFSET = 2**63 - 1


@pytest.fixture
def tree(mnt: Xen) -> Tree:
    return Tree(mnt)


def test_values(tree: Tree) -> None:
    assert (tree.one / "name").read_text() == "guest\n"
    assert (tree.one / "state").read_text() == "running\n"
    assert (tree.one / "memory").read_text() == "1024\n"
    assert (tree.one / "max_memory").read_text() == "1024\n"
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n", (tree.one / "uuid").read_text())
    assert (tree.root / "hypervisor" / "version").read_text().startswith("xenfs ")
    assert (tree.root / "hypervisor" / "pid").read_text() == f"{tree.mnt.pid}\n"
    assert float((tree.root / "hypervisor" / "uptime").read_text()) > 0
    info = f"domid=2 flags=permit_access frame={tree.frame} readers=0 writers=0 maps=0\n"
    assert (tree.one / "grants" / str(tree.ref) / "info").read_text() == info
    assert (tree.root / "domains" / "0" / "name").read_text() == "Domain-0\n"


WRITES = [
    ("name", "other\n", "other"),
    ("name", "with-dash_1.2", "with-dash_1.2"),
    ("name", "x" * 64, "x" * 64),
    ("name", "", None),
    ("name", "\n", errno.EINVAL),
    ("name", "x" * 65, errno.EINVAL),
    ("name", "Domain-0", errno.EEXIST),
    ("name", "é", errno.EINVAL),
    ("name", "a\nb", errno.EINVAL),
    ("name", "a\0b", errno.EINVAL),
    ("name", "x" * 5000, errno.EFBIG),
    ("memory", "1000\n", "1000"),
    ("memory", "1024", "1024"),
    ("memory", "1025", errno.ENOMEM),
    ("memory", "0", errno.EBUSY),
    ("memory", "-1", errno.EINVAL),
    ("memory", "1e3", errno.EINVAL),
    ("memory", " 1000", errno.EINVAL),
    ("memory", "0x100", errno.EINVAL),
    ("memory", "\u0661", errno.EINVAL),
    ("memory", "9" * 30, errno.EINVAL),
    ("memory", "9999999999", errno.ENOMEM),
    ("max_memory", "2048\n", "2048"),
    ("max_memory", "1", "1"),
    ("max_memory", "16385", errno.EINVAL),
    ("max_memory", "garbage", errno.EINVAL),
    ("state", "running", errno.EACCES),
    ("uuid", "x", errno.EACCES),
]


@pytest.mark.parametrize(("name", "text", "result"), WRITES)
def test_a_write_changes_the_value_or_nothing(tree: Tree, name: str, text: str, result: str | int | None) -> None:
    path, before = tree.one / name, (tree.one / name).read_text()
    if isinstance(result, int):
        with pytest.raises(OSError) as error:  # noqa: PT011 - checked below
            path.write_text(text)
        assert errno.errorcode[error.value.errno or 0] == errno.errorcode[result]
    else:
        path.write_text(text)
    assert path.read_text() == (f"{result}\n" if isinstance(result, str) else before)


def test_a_shell_writes_and_is_told_why_not(tree: Tree) -> None:
    run("sh", "-c", 'echo 900 > "$0"', tree.one / "memory")
    assert (tree.one / "memory").read_text() == "900\n"
    assert "Cannot allocate memory" in run("bash", "-c", 'echo 99999 > "$0"', tree.one / "memory", code=1)
    run("sh", "-c", 'printf 901 | dd of="$0" bs=16', tree.one / "memory")
    assert (tree.one / "memory").read_text() == "901\n"
    run("sh", "-c", 'echo 902 | tee "$0"', tree.one / "memory")
    run("truncate", "-s0", tree.one / "memory")
    assert (tree.one / "memory").read_text() == "902\n"
    run("touch", tree.one / "memory", tree.one / "ctl", tree.one / "frames" / str(tree.frame))


def test_partial_writes_to_a_page_merge(tree: Tree) -> None:
    page = tree.one / "frames" / str(tree.frame)
    with mapped(page) as view:
        run("sh", "-c", 'printf HELLO > "$0"', page)
        assert view[:8] == b"HELLOnts"
        run("sh", "-c", 'printf xyz | dd of="$0" bs=1 seek=4093 conv=notrunc', page)
        assert view[4090:] == b"\0\0\0xyz"
        view[100:103] = b"map"
        with page.open("r+b", buffering=0) as file:
            file.seek(101)
            file.write(b"!")
        assert view[100:103] == b"m!p"
    assert page.read_bytes() == b"HELLOnts".ljust(100, b"\0") + b"m!p" + bytes(PAGE - 106) + b"xyz"


@pytest.mark.parametrize("offset", [PAGE, PAGE + 1, 1 << 40, MAX_OFFSET - PAGE])
def test_reading_past_the_end_finds_nothing(tree: Tree, offset: int) -> None:
    for path in (tree.one / "name", tree.one / "frames" / str(tree.frame), tree.root / "hypervisor" / "frames"):
        with path.open("rb", buffering=0) as file:
            assert os.pread(file.fileno(), 100, offset) == b""


def test_a_text_is_as_it_was_at_its_beginning(tree: Tree) -> None:
    with (tree.one / "name").open("rb", buffering=0) as file:
        assert file.read(3) == b"gue"
        (tree.one / "name").write_text("renamed")
        assert file.read(3) == b"st\n"
        file.seek(0)
        assert file.read(100) == b"renamed\n"
