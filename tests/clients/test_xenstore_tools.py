"""Real xenstore clients: Debian's programs, libxenstore, pyxs; and `xenfs store`, which must print what they print."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import HERE, SECONDS, Inside, said
from tests.mounted.doors import Door
from tests.mounted.mount import Xen
from tests.need import missing, need_tool
from xenfs.abi.xs_wire import XsType

pytestmark = pytest.mark.timeout(115)
GOLDEN = HERE / "golden"
OURS = 'exec {python} -c "from xenfs.cli import main; main()" store {word} "$@"\n'


@pytest.fixture
def store(mnt: Xen) -> Iterator[Xen]:
    """A mount with domains 1 and 2, and Debian's xenstore-* programs."""
    need_tool("xenstore-ls", "xenstore-utils")
    mnt.domain(1)
    mnt.domain(2)
    yield mnt
    tidy = Door.socket(mnt.root)
    for path in (b"/oracle", b"/half"):
        tidy.ask(XsType.RM, path + b"\0")
    tidy.close()


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A folder in which xenstore-read is `xenfs store read`, and so on."""
    for word in ("read", "write", "list", "ls", "rm", "chmod", "exists", "watch"):
        script = tmp_path / f"xenstore-{word}"
        script.write_text("#!/bin/sh\n" + OURS.format(python=sys.executable, word=word))
        script.chmod(0o755)
    return tmp_path


def run(store: Xen, *words: str | Path, path: Path | None = None, domid: int | None = None) -> list[str]:
    """What a program says, through the socket or as a domain through its dev/xenbus."""
    door = f"{store.root}.sock" if domid is None else str(store.home(domid) / "dev" / "xenbus")
    environment = {**store.environment(), "XENSTORED_PATH": door}
    if domid is not None:
        environment["XEN_DOMID"] = str(domid)
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    done = subprocess.run(
        [str(word) for word in words], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    return (done.stdout + done.stderr).splitlines()


def compared(lines: list[str]) -> dict[str, str]:
    """By name of the case. xenstore-control is looked at below: Debian does not have it in this package."""
    return {name: rest for name, _, rest in (line.partition(": ") for line in lines) if "control" not in name}


def test_debians_programs_print_what_they_print_on_real_xen(store: Xen) -> None:
    expected = compared((GOLDEN / "xsutil.txt").read_text().splitlines())
    assert compared(run(store, "bash", GOLDEN / "t_xsutil.sh")) == expected
    assert len(expected) == 38


def test_xenfs_store_prints_what_they_print(store: Xen, ours: Path) -> None:
    expected = compared((GOLDEN / "xsutil.txt").read_text().splitlines())
    found = compared(run(store, "bash", GOLDEN / "t_xsutil.sh", path=ours))
    for word in ("read", "list", "ls", "rm", "chmod", "write"):
        found = {name: rest.replace(f"xenfs store {word}: ", f"xenstore-{word}: ") for name, rest in found.items()}
    assert found == expected


def test_control_says_what_xenstored_says(store: Xen) -> None:
    door = Door.socket(store.root)
    golden = (GOLDEN / "xsutil.txt").read_text().splitlines()
    lines = dict(line.split(": rc=0 out=", 1) for line in golden if ": rc=0 out=" in line)
    for name, words in (("print", b"print\0hello\0"), ("check", b"check\0"), ("quota", b"quota\0")):
        answer = door.ask(XsType.CONTROL, words).rstrip(b"\0").decode().rstrip("\n")
        assert answer.replace("\n", "|") + "|" == lines[f"xsutil.control_{name}"]
    use = door.ask(XsType.CONTROL, b"quota\x000\0").decode().splitlines()
    real = lines["xsutil.control_quota0"].split("|")
    assert [line.partition(":")[0] for line in use[:6]] == [line.partition(":")[0] for line in real[:6]]
    assert b"quota\t" in door.ask(XsType.CONTROL, b"help\0")
    door.close()


@pytest.mark.parametrize("domid", [0, 1, None])
def test_both_show_the_same_tree_to_whoever_looks(store: Xen, ours: Path, domid: int | None) -> None:
    run(store, "xenstore-write", "/oracle/secret", "x", "/oracle/open", "y")
    run(store, "xenstore-chmod", "/oracle/open", "r0")
    for command in ("ls -f -p", "ls -p", "ls", "ls /local/domain/1", "ls /none", "list -p /", "list -p /tool"):
        words = command.split()
        theirs = run(store, f"xenstore-{words[0]}", *words[1:], domid=domid)
        mine = run(store, f"xenstore-{words[0]}", *words[1:], domid=domid, path=ours)
        assert [line.replace("xenfs store ", "xenstore-") for line in mine] == theirs


def test_a_guest_has_its_own_rights_only(store: Xen) -> None:
    assert run(store, "xenstore-read", "name", domid=1) == ["domain-1"]
    assert run(store, "xenstore-write", "data/x", "1", domid=1) == []
    assert run(store, "xenstore-write", "/tool/x", "1", domid=1) == ["xenstore-write: could not write path /tool/x"]
    assert run(store, "xenstore-read", "/local/domain/1/data/x", domid=2) == [
        "xenstore-read: couldn't read path /local/domain/1/data/x"
    ]
    assert run(store, "xenstore-chmod", "data/x", "n1", "r2", domid=1) == []
    assert run(store, "xenstore-read", "/local/domain/1/data/x", domid=2) == ["1"]


@pytest.mark.usefixtures("store")
def test_a_program_in_a_domain_finds_its_store_without_being_told(inside: Inside) -> None:
    assert said(inside(2, "xenstore-read", "name")) == "domain-2\n"


def test_libxenstore_watches_in_one_thread_and_counts_in_another(
    store: Xen, inside: Inside, built: Callable[..., Path]
) -> None:
    program = built("store_threads.c", "-lxenstore", "-lpthread")
    run(store, "xenstore-write", "/local/domain/1/data/count", "0", "/local/domain/1/data/twin", "0")
    run(store, "xenstore-chmod", "-r", "/local/domain/1/data", "n1")
    counters = [inside(1, program, "100", "300") for _ in range(3)]
    assert [said(counter) for counter in counters] == ["heard\n"] * 3
    assert run(store, "xenstore-read", "/local/domain/1/data/count") == ["300"]


def test_pyxs(store: Xen) -> None:
    try:
        import pyxs  # type: ignore[import-untyped]
    except ImportError:
        missing("pyxs is not installed: pip install pyxs")
    with pyxs.Client(unix_socket_path=f"{store.root}.sock") as client:
        client.write(b"/oracle/py", b"value")
        assert client.read(b"/oracle/py") == b"value"
        assert client.list(b"/oracle") == [b"py"]
        client.set_perms(b"/oracle/py", [b"n0", b"r1"])
        assert client.get_perms(b"/oracle/py") == [b"n0", b"r1"]
        with client.monitor() as monitor:
            monitor.watch(b"/oracle", b"token")
            events = monitor.wait()
            assert tuple(next(events)) == (b"/oracle", b"token")
            other = Door.socket(store.root)
            other.ask(XsType.WRITE, b"/oracle/new\0")
            assert tuple(next(events)) == (b"/oracle/new", b"token")
            other.close()
        client.transaction()
        client.write(b"/oracle/py", b"in")
        client.commit()
        with pytest.raises(pyxs.PyXSError):
            client.read(b"/oracle/none")
        client.delete(b"/oracle/py")
        assert not client.exists(b"/oracle/py")


def test_three_clients_never_see_half_a_transaction(store: Xen) -> None:
    """One through the socket, one through the device, one through the files."""
    writer, seen, over = Door.socket(store.root), list[tuple[bytes, bytes]](), threading.Event()
    for name in (b"a", b"b"):
        writer.ask(XsType.WRITE, b"/half/" + name + b"\x000")

    def look() -> None:
        reader = Door.device(store.home(0))
        while not over.is_set():
            tx = int(reader.ask(XsType.TRANSACTION_START, b"\0").rstrip(b"\0"))
            pair = [reader.ask(XsType.READ, b"/half/" + name + b"\0", tx) for name in (b"a", b"b")]
            if reader.ask(XsType.TRANSACTION_END, b"T\0", tx) == b"OK\0":
                seen.append((pair[0], pair[1]))
        reader.close()

    thread = threading.Thread(target=look)
    thread.start()
    files = store.root / "xenstore" / "half"
    for number in range(1, 200):
        tx = int(writer.ask(XsType.TRANSACTION_START, b"\0").rstrip(b"\0"))
        writer.ask(XsType.WRITE, b"/half/a\0%d" % number, tx)
        assert int((files / "b").read_text()) == int((files / "a").read_text()) == number - 1
        writer.ask(XsType.WRITE, b"/half/b\0%d" % number, tx)
        assert writer.ask(XsType.TRANSACTION_END, b"T\0", tx) == b"OK\0"
    over.set()
    thread.join(30)
    assert seen
    assert all(a == b for a, b in seen)
    writer.close()
    assert os.listdir(files) == ["a", "b"]  # noqa: PTH208 - in order of creation
