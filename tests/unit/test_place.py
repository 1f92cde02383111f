"""The pure parts of the commands: mountinfo, tables, what is read and what is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from xenfs.commands import checks, looks
from xenfs.commands.child import Silent, ask, stream
from xenfs.commands.columns import aligned
from xenfs.commands.doctor import verdict
from xenfs.commands.domain import one_of
from xenfs.commands.failure import Unable
from xenfs.commands.leaks import held
from xenfs.commands.machine import HEAD, Domain, Frames
from xenfs.commands.parting import below
from xenfs.commands.place import Mount, default_place, mounts, resolve, unescape
from xenfs.commands.trace import lines, readable, shown
from xenfs.hypervisor import Machine, text
from xenfs.hypervisor.snapshot import frames_table

ROOT = rb"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw"
OURS = rb"40 22 0:39 / /tmp/a\040b\134c\043d rw,nosuid shared:1 master:2 - fuse.xenfs xenfs rw,user_id=7,allow_other"


def test_a_line_of_mountinfo() -> None:
    mount = Mount.parse(OURS)
    assert mount.id == 40
    assert mount.device == "0:39"
    assert mount.point == "/tmp/a b\\c#d"
    assert (mount.fstype, mount.source, mount.user) == ("fuse.xenfs", "xenfs", 7)
    assert mount.options == {"rw": "", "user_id": "7", "allow_other": ""}


def test_a_mount_without_an_owner() -> None:
    assert Mount.parse(ROOT).user is None


@pytest.mark.parametrize(
    ("word", "path"),
    [
        (rb"/a", "/a"),
        (rb"/a\040b", "/a b"),
        (rb"/a\011\012", "/a\t\n"),
        (rb"/\134040", "/\\040"),
        (rb"/\303\244", "/ä"),
        (rb"/\377", "/\udcff"),
        ("/ä".encode(), "/ä"),
        (rb"/\04", "/\\04"),
        (rb"/\777", "/\udcff"),
    ],
)
def test_escapes(word: bytes, path: str) -> None:
    assert unescape(word) == path


@pytest.mark.parametrize(
    "line", [b"", b"1 2 3", b"40 22 0:39 / /x rw", b"40 22 0:39 / /x rw - ext4", b"x 1 0:1 / /x rw - a b c"]
)
def test_what_is_no_mountinfo_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Mount.parse(line)


def test_mounts_are_read_lowest_first(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(ROOT + b"\n" + OURS + b"\n")
    assert [m.id for m in mounts(str(table))] == [22, 40]
    assert any(m.point == "/" for m in mounts())


def test_the_place_is_xen_or_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XEN", "/x")
    assert default_place() == "/x"
    monkeypatch.setenv("XEN", "")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_place() == "/run/xenfs"
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert default_place() == "/run/user/7/xenfs"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with pytest.raises(Unable, match="XDG_RUNTIME_DIR"):
        default_place()


def test_a_place_is_found_through_symlinks_and_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path.resolve() / "real"
    (real / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    monkeypatch.chdir(real)
    for said in ("sub", "./sub/", "../real/sub", f"{tmp_path}/link/sub", "../link/sub", "sub/../sub"):
        assert resolve(said) == f"{real}/sub"
    assert resolve(f"{tmp_path}/link") == str(real)
    assert resolve("not/there") == f"{real}/not/there"
    assert resolve("/") == "/"


def testbelow_a_mount() -> None:
    assert below("/a/b", "/a/b")
    assert below("/a/b/c", "/a/b")
    assert not below("/a/bc", "/a/b")


# Children


def test_a_child_answers() -> None:
    assert ask(lambda: {"pid": os.getpid()})["pid"] != os.getpid()


def test_a_long_answer_arrives() -> None:
    assert len(ask(lambda: "x" * 3_000_000)) == 3_000_000


def test_what_a_child_raises_is_raised() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        ask(lambda: Path("/not/there").read_text())
    assert caught.value.filename == "/not/there"
    with pytest.raises(Unable, match="why"):
        ask(lambda: _refuse("why"))


def _refuse(why: str) -> None:
    raise Unable(why, 4)


def test_a_child_that_is_late_is_killed_and_collected() -> None:
    told, tell = os.pipe()
    began = time.monotonic()
    with pytest.raises(Silent):
        ask(lambda: os.write(tell, b"%d" % os.getpid()) and signal.sigwait([signal.SIGUSR1]), seconds=0.5)
    assert time.monotonic() - began < 5
    assert not Path("/proc", os.read(told, 20).decode()).exists()
    os.close(told)
    os.close(tell)


def test_a_child_that_dies_is_silent() -> None:
    with pytest.raises(Silent):
        ask(lambda: os._exit(0))


def test_a_stream_begins_with_a_newline_and_ends_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one\ntwo\n")
    assert b"".join(stream(str(path))) == b"\none\ntwo\n"
    with pytest.raises(FileNotFoundError):
        list(stream(str(tmp_path / "none")))


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_a_stream_that_is_left_ends_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    holder = os.open(path, os.O_RDWR)
    others = set(children())
    pieces = stream(str(path))
    assert next(pieces) == b"\n"
    (reader,) = set(children()) - others
    pieces.close()
    os.close(holder)
    assert not Path("/proc", reader).exists()


# Tables


def test_columns_are_aligned_and_numbers_to_the_right() -> None:
    assert aligned(("a", "bbb", "c"), [("x", "1", "some words"), ("yyyy", "22222", "")]) == [
        "a       bbb  c",
        "x         1  some words",
        "yyyy  22222",
    ]


def test_a_table_without_rows_is_its_head() -> None:
    assert aligned(("a", "b"), []) == ["a  b"]


def test_a_cell_is_one_line() -> None:
    assert aligned(("a",), [("x\ny",)]) == ["a", "x y"]


# What the machine says


def machine() -> Machine:
    made = Machine()
    for line in ("create_domain name=guest frames=10", 'create_domain name="two words" frames=20'):
        made.call(text.parse(line))
    return made


def test_hypervisor_frames_is_read_back() -> None:
    seen = Frames.parse(frames_table(machine()))
    assert [(d.domid, d.name, d.owned) for d in seen.domains] == [
        (0, "Domain-0", 4096),
        (1, "guest", 10),
        (2, "two words", 20),
    ]
    assert (seen.total, seen.free) == (1 << 20, (1 << 20) - 4126)


@pytest.mark.parametrize("said", ["", "x", "head\ntotal 1\n", "head\n0 running 1\ntotal 1 free 1\n"])
def test_what_is_no_list_of_frames_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Frames.parse(said)


GUEST = Domain(1, "guest", "running", 10, 0, 0, 0, "root", 10, ())
SEEN = Frames((Domain(0, "Domain-0", "running", 9, 0, 0, 0, "root", 9, (1,)), GUEST), 100, 80)


def test_a_row_has_a_cell_for_each_column() -> None:
    assert len(GUEST.row()) == len(HEAD)
    assert replace(GUEST, user=None, max=None, ports=None).row()[-1] == "-"


def test_a_domain_is_found_by_number_then_by_name() -> None:
    one, two = replace(GUEST, domid=1, name="2"), replace(GUEST, domid=2, name="1")
    dead = replace(GUEST, domid=3, name="dead", state="dying")
    assert one_of((one, two, dead), "1") is one
    assert one_of((one, replace(two, name="x")), "x").domid == 2
    for which in ("dead", "3", "", "01"):
        with pytest.raises(Unable, match="no domain"):
            one_of((one, two, dead), which)


def now(**changes: object) -> Frames:
    return replace(SEEN, domains=(SEEN.domains[0], replace(GUEST, **changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"owned": 7, "max": 99, "name": "x"}, []),
        ({"granted": 3}, ["domain 1 (guest): 3 frames granted"]),
        ({"mapped": 1, "in_flight": 2}, ["domain 1 (guest): 1 frames mapped, 2 frames in flight"]),
        ({"ports": (4, 5)}, ["domain 1 (guest): open ports 4 5"]),
        ({"state": "dying"}, ["domain 1 (guest): dying, 10 frames are still mapped by others"]),
    ],
)
def test_leaks(changes: dict[str, object], said: list[str]) -> None:
    assert held(SEEN, now(**changes)) == said


def test_what_was_held_before_is_no_leak_and_what_a_new_domain_holds_is() -> None:
    before = now(granted=3)
    assert held(before, now(granted=3)) == []
    new = replace(GUEST, domid=5, name="new", granted=1)
    after = replace(before, domains=(*before.domains, new))
    assert held(before, after) == ["domain 5 (new): 1 frames granted"]


# The trace


def records() -> list[str]:
    return [record.line() for record in machine().trace.since(0)[1]]


def test_a_call_is_a_line_for_people() -> None:
    line = readable(json.loads(records()[0]))
    assert line.endswith('0  create_domain dom=any frames=10 max_frames=0 name=guest uuid="" → ok domid=1')


def test_a_refusal_is_a_line_for_people() -> None:
    made = machine()
    with pytest.raises(Exception, match="guest"):
        made.call(text.parse("create_domain name=guest"))
    line = readable(json.loads(made.trace.since(2)[1][0].line()))
    assert line.endswith("→ EEXIST name 'guest': domain 1 has it")


def test_only_the_lines_of_one_domain() -> None:
    line = records()[0]
    assert shown(line, None, True) == line
    assert shown(line, 0, True) == line
    assert shown(line, 1, True) is None
    assert shown('{"lost": 3}', 1, False) == "(3 calls lost)"


def test_lines_out_of_pieces() -> None:
    assert list(lines(iter([b"\n", b"a\nb", b"b\n\n", b"c"]))) == ["a", "bb"]


# doctor


@pytest.mark.parametrize(
    ("look", "problem"),
    [
        (looks.device("/dev/null"), None),
        (looks.device("/dev/not-there"), "there is no such device"),
        (looks.library("libc.so.6"), None),
        (looks.program("not-there", "sh"), None),
        (looks.program("not-there"), "not installed"),
        (looks.version("x", "6.18.44-fc", (5, 4)), None),
        (looks.version("x", "5.3", (5, 4)), "x 5.3 is older than 5.4"),
        (looks.version("x", "10.0-rc1", (5, 4)), None),
        (looks.number("/not/there", least=1), None),
        (looks.descriptors(1), None),
        (looks.writable("not/there/*"), "this kernel does not have it"),
        (looks.package("no-such-package-at-all"), "not installed"),
    ],
)
def test_looks(look: looks.Look, problem: str | None) -> None:
    assert look() == problem


def test_a_library_that_is_not_there() -> None:
    assert "libnot-there.so" in str(looks.library("libnot-there.so")())


def test_numbers_and_lines_of_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("5\n")
    assert looks.number(str(path), least=5, most=5)() is None
    assert looks.number(str(path), least=6)() == "5, less than 6"
    assert looks.number(str(path), most=4)() == "5, more than 4"
    assert looks.line_in(str(path), "5")() is None
    path.write_text("#user_allow_other\n")
    assert looks.line_in(str(path), "user_allow_other")() == f"{path} does not say it"


def test_verdicts() -> None:
    check = checks.Check("thing", lambda: "broken", "fix it", why="slow")
    assert verdict(check) == ("advice", "thing", "broken: slow; to mend it: fix it")
    assert verdict(replace(check, needed=True))[0] == "missing"
    assert verdict(replace(check, look=lambda: None)) == ("ok", "thing", "")


def test_the_first_obstacle_is_told() -> None:
    fine, broken = checks.Check("a", lambda: None, ""), checks.Check("b", lambda: "broken", "fix it")
    assert checks.obstacle([fine, broken]) == "b: broken; to mend it: fix it"
    assert checks.obstacle([fine, replace(broken, users=False, root=False)]) is None


def test_every_listed_package_is_checked() -> None:
    listed = [line.split()[0] for line in checks.PACKAGES.read_text().splitlines() if line and line[0] != "#"]
    assert [check.name for check in checks.packages()] == [f"package {name}" for name in listed]


def test_a_check_names_what_mends_it() -> None:
    assert all(check.mend for check in checks.table())
    asked = {(check.name, user) for check in checks.table() for user in (0, 1) if check.applies(user)}
    assert {("fusermount", 1), ("CAP_SYS_ADMIN", 0), ("/dev/fuse", 0), ("/dev/fuse", 1)} <= asked
    assert ("fusermount", 0) not in asked


_WAIT = """
import os, signal, sys
from xenfs.commands.run import wait_forwarding
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
print(wait_forwarding(os.posix_spawn("/bin/sh", ["sh", "-c", sys.argv[1]], os.environ)))
"""


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("kill -KILL $$", 137)])
def test_the_status_of_a_child_is_that_of_a_shell(script: str, status: int) -> None:
    # in a process without other threads, to which SIGCHLD might come
    line = [sys.executable, "-c", _WAIT, script]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (f"{status}\n", "")
