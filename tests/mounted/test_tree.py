"""The tree under the hands of people: what ls, cat, find, tar and their like make of it."""

# system calls are tested here, by their own names
# ruff: noqa: PTH208

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tests.mounted.inside import PAGE, mapped
from tests.mounted.mount import Xen

MAX_OFFSET = 2**63 - 1


class Tree:
    """Domain 1 has one of everything, domain 2 what it was granted."""

    def __init__(self, mnt: Xen) -> None:
        self.mnt, self.root = mnt, mnt.root
        self.one, self.two = mnt.domain(1), mnt.domain(2)
        (self.one / "name").write_text("guest\n")
        self.ctl = mnt.ctl(1)
        self.frame, self.ref = self.ctl.grant(2)
        self.ctl.do(f"name_ring frame={self.frame} name=vif-0-tx")
        self.port = self.ctl.do("alloc_unbound remote_dom=2")
        (self.one / "frames" / str(self.frame)).write_bytes(b"contents")


@pytest.fixture
def tree(mnt: Xen) -> Tree:
    return Tree(mnt)


def run(*command: str | Path, code: int = 0) -> str:
    """What a command says; it must end in time and as expected."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def ls(*paths: Path) -> dict[str, list[str]]:
    """ls -ln, the columns by name."""
    lines = run("ls", "-lnd", "--time-style=+%s", *paths).splitlines()
    return {Path(line.split()[-1]).name: line.split()[:-1] for line in lines}


KINDS: dict[str, tuple[str, int, int | None]] = {
    "domains/1": ("drwx------", 7, 0),
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
    assert time.monotonic() - begun < 1


def test_a_thousand_domains(mnt: Xen) -> None:
    dom0 = mnt.ctl(0)
    made = dom0.all([f"create_domain dom={number} frames=1" for number in range(1, 1001)])
    assert len(set(made)) == 1000
    begun = time.monotonic()
    assert len(mnt.lines()) == 1002
    assert len(list((mnt.root / "domains").iterdir())) == 1001
    assert (mnt.home(1000) / "name").read_text() == "domain-1000\n"
    assert time.monotonic() - begun < 1
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
