"""xenstore/ as files: what shells do with the store."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.files import refused
from tests.mounted.doors import Door
from tests.mounted.mount import Xen
from xenfs.abi.xs_wire import XsType as T

OK = b"OK\0"


@pytest.fixture
def top(mnt: Xen) -> Iterator[Path]:
    """A directory of the store, removed afterwards."""
    path = mnt.root / "xenstore" / "t"
    path.mkdir()
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=True, timeout=30)
    assert not path.exists()


@pytest.fixture
def door(mnt: Xen) -> Iterator[Door]:
    """Another client, by the socket."""
    made = Door.socket(mnt.root)
    yield made
    made.close()


def shell(top: Path, script: str) -> str:
    done = subprocess.run(["bash", "-ec", script], cwd=top, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


def changes(door: Door) -> list[bytes]:
    """Paths of which events have come."""
    return [payload.split(b"\0")[0] for name, payload in door.heard(0.05) if name == "WATCH_EVENT"]


def test_a_value_shows_with_a_newline_and_is_stored_without(top: Path, door: Door) -> None:
    assert shell(top, "echo 4 > state; cat state; printf no-newline > x; cat x") == "4\nno-newline\n"
    assert door.ask(T.READ, b"/t/state\0") == b"4"
    assert door.ask(T.READ, b"/t/x\0") == b"no-newline"
    door.ask(T.WRITE, b"/t/state\0two\nlines\n")
    assert shell(top, "cat state") == "two\nlines\n\n"
    assert (top / "state").stat().st_size == 11


def test_a_redirection_is_one_change(top: Path, door: Door) -> None:
    assert door.ask(T.WATCH, b"/t\0w\0") == OK
    door.heard(0.05)
    shell(top, "echo 1 > new")
    assert changes(door) == [b"/t/new"]
    shell(top, "echo 2 > new")
    assert changes(door) == [b"/t/new"]
    shell(top, ": > new; touch other")
    assert changes(door) == [b"/t/new", b"/t/other"]
    assert (top / "new").read_text() == "\n"
    os.truncate(top / "new", 0)
    assert changes(door) == []
    shell(top, "echo 3 > new; cat new >/dev/null; ls -l; stat new")
    assert changes(door) == [b"/t/new"]


def test_writes_through_one_open_store_what_it_has_written_so_far(top: Path, door: Door) -> None:
    assert shell(top, "exec 3>v; printf a >&3; cat v; printf b >&3; cat v; exec 3>&-; cat v") == "a\nab\nab\n"
    shell(top, "echo more >> v")
    assert door.ask(T.READ, b"/t/v\0") == b"ab\nmore"
    assert "File too large" in shell(top, "head -c 5000 /dev/zero > v")
    assert door.ask(T.READ, b"/t/v\0")[:3] in (b"ab\n", b"\0\0\0", b"")


def test_kinds_are_sticky(top: Path, door: Door) -> None:
    (top / "node").write_text("value\n")
    before = (top / "node").stat().st_ino
    assert (top / "node").is_file()
    refused(errno.ENOTDIR, os.mkdir, top / "node" / "child")
    assert door.ask(T.WRITE, b"/t/node/child\0x") == OK
    assert (top / "node").is_dir()
    assert (top / "node").stat().st_ino != before
    assert (top / "node" / ".value").read_text() == "value\n"
    assert door.ask(T.RM, b"/t/node/child\0") == OK
    assert (top / "node").is_dir()
    assert os.listdir(top / "node") == []  # noqa: PTH208 - names
    (top / "node").rmdir()
    assert door.ask(T.WRITE, b"/t/node\0again") == OK
    assert (top / "node").is_file()
    (top / "made").mkdir()
    assert (top / "made").is_dir()
    assert door.ask(T.DIRECTORY, b"/t\0") == b"node\0made\0"


def test_what_is_removed_is_removed(top: Path, door: Door) -> None:
    shell(top, "mkdir -p a/b/c; echo 1 > a/b/c/v; echo 2 > w")
    refused(errno.ENOTEMPTY, os.rmdir, top / "a")
    refused(errno.ENOTDIR, os.rmdir, top / "w")
    refused(errno.EISDIR, os.unlink, top / "a")
    assert shell(top, "rm w; rm -r a; ls -A") == ""
    assert door.ask(T.READ, b"/t/a/b/c/v\0") == b"ENOENT"


def test_hidden_names_are_found_by_who_knows_them(top: Path, door: Door) -> None:
    (top / "d").mkdir()
    (top / "d" / ".value").write_text("own\n")
    assert door.ask(T.READ, b"/t/d\0") == b"own"
    assert shell(top, "cat d/.perms; echo 'n0 r0' > d/.perms; cat d/.perms") == "n0\nn0 r0\n"
    assert door.ask(T.GET_PERMS, b"/t/d\0") == b"n0\0r0\0"
    assert shell(top, "find . -name '.*' -not -name .; ls -A d") == ""
    with pytest.raises(OSError, match="Invalid argument"):
        (top / "d" / ".perms").write_text("x9\n")
    with pytest.raises(OSError, match="No such file"):
        (top / "d" / ".perms").write_text("n999\n")


def test_permissions_are_an_attribute_of_any_node(top: Path, door: Door) -> None:
    (top / "v").write_text("1\n")
    for path in (top, top / "v"):
        assert os.listxattr(path) == ["user.xenstore.perms"]
        assert os.getxattr(path, "user.xenstore.perms") == b"n0"
        os.setxattr(path, "user.xenstore.perms", b"n0 w0")
    assert door.ask(T.GET_PERMS, b"/t/v\0") == b"n0\0w0\0"
    refused(errno.EINVAL, os.setxattr, top, "user.xenstore.perms", b"q0")
    refused(errno.ENOTSUP, os.setxattr, top, "user.other", b"x")
    refused(errno.ENODATA, os.getxattr, top, "user.other")


def test_people_s_commands(top: Path) -> None:
    shell(top, "mkdir -p a/b; echo 1 > a/x; echo 2 > a/b/y; cp -r a copy")
    assert shell(top, "diff -r a copy && echo same; grep -r 2 .") == "same\n./a/b/y:2\n./copy/b/y:2\n"
    assert shell(top, "tar cf - a | tar tf - | sort") == "a/\na/b/\na/b/y\na/x\n"
    assert shell(top, "mv a/x z; cat z; ls a") == "1\nb\n"
    assert shell(top, "find . -type f | sort; du -s . > /dev/null") == "./a/b/y\n./copy/b/y\n./copy/x\n./z\n"
    assert shell(top, "ln z w || true; ln -s z w || true; mknod w p || true").count("not permitted") == 3


def test_names_that_no_node_can_have(top: Path) -> None:
    for name in ("a b", "a:b", "é", ".hidden", "x" * 300):
        with pytest.raises(OSError, match=r"Invalid argument|File name too long|not permitted"):
            (top / name).write_text("x\n")
        with pytest.raises(OSError, match=r"Invalid argument|File name too long"):
            (top / name).mkdir()


def test_watching_with_cat(mnt: Xen, top: Path, door: Door) -> None:
    (top / "d").mkdir()
    user = mnt.client("""
        import subprocess
        process = subprocess.Popen(["cat", str(xen() / "xenstore/t/.watch")], stdout=subprocess.PIPE)
        def tell():
            for line in process.stdout:
                say(line.decode().strip())
        threading.Thread(target=tell, daemon=True).start()
        hear()
        process.send_signal(signal.SIGINT)
        say(process.wait(10))
    """)

    def watched() -> bool:
        return b"watches         :        1" in door.ask(T.CONTROL, b"quota\x000\0")

    while not watched():
        pass
    (top / "d" / "x").write_text("1\n")
    assert user.line() == "/t/d/x"
    door.ask(T.WRITE, b"/t/y\0")
    assert user.line() == "/t/y"
    assert user.ask() == str(-2)


def test_it_is_the_owners_alone(mnt: Xen) -> None:
    assert (mnt.root / "xenstore").stat().st_mode & 0o777 == 0o700
    user = mnt.client("""
        become(12345)
        say(outcome(xen() / "xenstore" / "tool", os.O_RDONLY))
    """)
    assert user.line() == "EACCES"
