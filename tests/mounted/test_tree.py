"""The tree under the hands of people: what ls, cat, find, tar and their like make of it."""

# system calls are tested here, by their own names
# ruff: noqa: PTH208

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tests.mounted.inside import PAGE
from tests.mounted.mount import SOON, Xen
from tests.mounted.tree import Tree, run

MAX_OFFSET = 2**63 - 1


@pytest.fixture
def tree(mnt: Xen) -> Tree:
    return Tree(mnt)


def ls(*paths: Path) -> dict[str, list[str]]:
    """ls -ln, the columns by name."""
    lines = run("ls", "-lnd", "--time-style=+%s", *paths).splitlines()
    return {Path(line.split()[-1]).name: line.split()[:-1] for line in lines}


KINDS: dict[str, tuple[str, int, int | None]] = {
    "domains/1": ("drwx------", 8, 0),
    "domains/1/dev": ("drwxr-xr-x", 2, 0),
    "domains/1/dev/evtchn": ("-rw-------", 1, 0),
    "domains/1/dev/hypercall": ("-rw-------", 1, 0),
    "domains/1/ctl": ("-rw-------", 1, 0),
    "domains/1/name": ("-rw-r--r--", 1, 6),
    "domains/1/state": ("-r--r--r--", 1, 8),
    "domains/1/uuid": ("-r--r--r--", 1, 37),
    "domains/1/frames": ("drwxr-xr-x", 2, 0),
    "domains/1/frames/{frame}": ("-rw-rw-rw-", 1, 4096),
    "domains/1/grants": ("drwxr-xr-x", 3, 0),
    "domains/1/grants/{ref}": ("drwxr-xr-x", 2, 0),
    "domains/1/grants/{ref}/page": ("-rw-rw-rw-", 1, 4096),
    "domains/2/foreign/1/{ref}": ("-rw-rw-rw-", 1, 4096),
    "domains/1/rings/vif-0-tx": ("-rw-rw-rw-", 1, 4096),
    "domains/1/evtchn": ("drwxr-xr-x", 3, 0),
    "domains/1/evtchn/{port}/pending": ("prw-rw-rw-", 1, 0),
    "domains/1/evtchn/{port}/notify": ("prw-rw-rw-", 1, 0),
    "hypervisor/trace": ("-r--------", 1, None),
    "hypervisor/trace_pipe": ("-r--------", 1, 0),
    "hypervisor": ("drwxr-xr-x", 2, 0),
    "domains": ("drwxr-xr-x", 5, 0),
}


@pytest.mark.parametrize("name", KINDS)
def test_ls_shows_what_is(tree: Tree, name: str) -> None:
    os.chown(tree.one, 12001, 12002)
    path = tree.root / name.format(frame=tree.frame, ref=tree.ref, port=tree.port)
    (columns,) = ls(path).values()
    mode, links, size = KINDS[name]
    # what belongs to the domain, and pages wherever they show; FIFOs are two domains' and so nobody's
    theirs = name.startswith("domains/1") and not name.endswith(("pending", "notify"))
    assert columns[2:4] == (["12001", "12002"] if theirs or name.startswith("domains/2") else ["0", "0"])
    assert (columns[0], int(columns[1])) == (mode, links)
    assert size in (None, int(columns[4]))
    assert abs(int(columns[5]) - time.time()) < 120


def test_links_count_directories(tree: Tree) -> None:
    for name in ("", "domains", "domains/1", "domains/1/grants", "domains/1/evtchn", "domains/1/frames"):
        path = tree.root / name
        inside = sum(
            entry.is_dir(follow_symlinks=False) for entry in os.scandir(path) if not entry.name.startswith(".")
        )
        assert path.stat().st_nlink == 2 + inside, path


def test_stat_agrees_with_the_listing_everywhere(tree: Tree) -> None:
    inodes: dict[int, str] = {}
    for folder, _, _ in os.walk(tree.root):
        for entry in os.scandir(folder):
            found = os.lstat(entry.path)
            assert entry.inode() == found.st_ino, entry.path
            assert entry.is_dir() == stat.S_ISDIR(found.st_mode), entry.path
            assert entry.is_file() == stat.S_ISREG(found.st_mode), entry.path
            first = inodes.setdefault(found.st_ino, entry.path)
            assert first == entry.path or found.st_size == PAGE or stat.S_ISFIFO(found.st_mode), "one inode, two things"


def test_find_and_du_and_grep_go_through_everything(tree: Tree) -> None:
    found = run("find", tree.root).splitlines()
    assert len(found) > 6144  # the frames of three domains
    assert len(set(found)) == len(found)
    assert not [name for name in found if "trace_pipe" in name or ".lines" in name]
    assert run("find", tree.root, "-type", "p") == run("find", tree.one / "evtchn", "-type", "p")
    assert int(run("du", "-sk", tree.one / "frames").split()[0]) == 4096
    matches = run("grep", "-rl", "contents", tree.root)
    assert str(tree.one / "rings" / "vif-0-tx") in matches.splitlines()
    assert run("grep", "-rh", "remote_domid=2", tree.one) == "state=unbound remote_domid=2 remote_port=0\n"


def test_tar_has_the_contents(tree: Tree) -> None:
    command = ["tar", "-C", str(tree.root), "-cf", "-", "domains/1"]
    made = subprocess.run(command, capture_output=True, timeout=30, check=True)
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        names = set(archive.getnames())
        assert f"domains/1/evtchn/{tree.port}/pending" in names
        for name in ("name", "uuid", "state", f"frames/{tree.frame}", "rings/vif-0-tx", f"grants/{tree.ref}/info"):
            member = archive.extractfile(f"domains/1/{name}")
            assert member is not None
            assert member.read() == (tree.one / name).read_bytes(), name
    assert made.stderr == b""


def test_cp_copies_a_page(tree: Tree, tmp_path: Path) -> None:
    page = tree.one / "frames" / str(tree.frame)
    shutil.copy(page, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"contents".ljust(PAGE, b"\0")
    (tmp_path / "copy").write_bytes(b"back".ljust(PAGE, b"!"))
    run("cp", tmp_path / "copy", page)
    assert page.read_bytes() == (tmp_path / "copy").read_bytes()
    assert run("cmp", page, tree.two / "foreign" / "1" / str(tree.ref)) == ""


@pytest.mark.parametrize("typed", ["", "domains/1/", "domains/1/frames/10", "hypervisor/", "domains/2/foreign/1/"])
def test_a_shell_completes(tree: Tree, typed: str) -> None:
    folder, _, start = typed.rpartition("/")
    expected = {name for name in os.listdir(tree.root / folder) if name.startswith(start) and name[0] != "."}
    said = run("bash", "-c", 'compgen -f -- "$0" || true', f"{tree.root}/{typed}").splitlines()
    assert {Path(line).name for line in said} == expected


def test_df_shows_the_machines_memory(tree: Tree) -> None:
    size, free = run("df", "-B4096", "--output=size,avail", tree.root).splitlines()[1].split()
    assert (size, free) == (tree.mnt.lines()[-1][1], tree.mnt.lines()[-1][3])
    found = os.statvfs(tree.root)
    assert (found.f_bsize, found.f_frsize, found.f_namemax) == (PAGE, PAGE, 255)


def test_a_listing_stays_as_it_was_while_things_change(tree: Tree) -> None:
    lister = tree.mnt.client("""
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(home(1) / "frames", os.O_RDONLY | os.O_DIRECTORY)
        buffer = ctypes.create_string_buffer(200)
        names, begun = [], False
        while True:
            size = libc.syscall(217, fd, buffer, 200)  # getdents64
            assert size >= 0, os.strerror(ctypes.get_errno())
            at = 0
            while at < size:
                (length,) = struct.unpack_from("H", buffer, at + 16)
                names.append(buffer.raw[at + 19 : at + length].rstrip(bytes(1)).decode())
                at += length
            if not begun and len(names) > 100:
                begun = True
                say("begun")
                hear()
            if not size:
                break
        say(len(names), len(set(names)))
    """)
    assert lister.line() == "begun"
    (tree.one / "memory").write_text("500")
    assert lister.ask() == "1026 1026"
    assert len(os.listdir(tree.one / "frames")) == 500


def test_a_large_directory_is_read_fast(tree: Tree) -> None:
    (tree.one / "max_memory").write_text("8192")
    (tree.one / "memory").write_text("8192")
    begun = time.monotonic()
    assert len(os.listdir(tree.one / "frames")) == 8192
    assert time.monotonic() - begun < SOON


def test_a_thousand_domains(mnt: Xen) -> None:
    dom0 = mnt.ctl(0)
    made = dom0.all([f"create_domain dom={number} frames=1" for number in range(1, 1001)])
    assert len(set(made)) == 1000
    begun = time.monotonic()
    assert len(mnt.lines()) == 1002
    assert len(list((mnt.root / "domains").iterdir())) == 1001
    assert (mnt.home(1000) / "name").read_text() == "domain-1000\n"
    assert time.monotonic() - begun < SOON
    assert set(dom0.all([f"destroy_domain dom={number}" for number in range(1, 1001)])) == {"ok"}


def test_domains_come_and_go_by_mkdir_and_rmdir(mnt: Xen) -> None:
    free = mnt.lines()[-1][3]
    for _ in range(3):
        mnt.home(7).mkdir()
        with pytest.raises(FileExistsError):
            mnt.home(7).mkdir()
        assert int(mnt.lines()[-1][3]) == int(free) - 1024
        mnt.home(7).rmdir()
        with pytest.raises(FileNotFoundError):
            mnt.home(7).rmdir()
        assert mnt.lines()[-1][3] == free
    uuids = set()
    for _ in range(3):
        uuids.add((mnt.domain(7) / "uuid").read_text())
        mnt.home(7).rmdir()
    assert len(uuids) == 3


def test_rm_of_a_domain_with_everything_in_it(tree: Tree) -> None:
    held = (tree.one / "frames" / str(tree.frame)).open("rb")
    cwd = tree.mnt.client("os.chdir(home(1)); say('in'); hear(); say(outcome('ctl', os.O_RDWR)); hear()")
    assert cwd.line() == "in"
    tree.one.rmdir()
    assert not tree.one.exists()
    assert cwd.ask() in ("ENOENT", "ESRCH")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        held.read()
    held.close()
    assert tree.mnt.dying() == []
