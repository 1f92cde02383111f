"""Which name was opened decides the right: a way around the name gives no right at all."""

# system calls are tested here, by their own names
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH116, PTH208, PTH211

from __future__ import annotations

import errno
import mmap
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.inside import PAGE, Ctl, mapped, mprotect, outcome, raw_map, raw_unmap
from tests.mounted.mount import SOON, Xen

READ, WRITE = os.O_RDONLY, os.O_RDWR


class Shared:
    """A frame of domain 1, granted read-only to domain 2."""

    def __init__(self, mnt: Xen) -> None:
        self.mnt = mnt
        mnt.domain(1)
        mnt.domain(2)
        self.owner = mnt.ctl(1)
        frame, ref = self.owner.grant(2, flags=4)
        self.mine = mnt.home(1) / "frames" / str(frame)
        self.theirs = mnt.home(2) / "foreign" / "1" / str(ref)
        self.names = [self.mine, mnt.home(1) / "grants" / str(ref) / "page", self.theirs]
        self.frame, self.ref = frame, ref


@pytest.fixture
def shared(mnt: Xen) -> Shared:
    return Shared(mnt)


def test_all_names_are_one_inode(shared: Shared) -> None:
    assert len({(os.stat(name).st_dev, os.stat(name).st_ino) for name in shared.names}) == 1


def test_each_name_has_its_right(shared: Shared) -> None:
    assert [outcome(name, WRITE) for name in shared.names] == ["ok", "ok", "EACCES"]
    assert [outcome(name, READ) for name in shared.names] == ["ok"] * 3


def reopened(fd: int, flags: int) -> str:
    return outcome(f"/proc/self/fd/{fd}", flags)


@pytest.mark.parametrize("flags", [READ, WRITE, os.O_WRONLY, os.O_RDWR | os.O_TRUNC])
@pytest.mark.parametrize("first", [READ, os.O_PATH])
def test_a_descriptor_cannot_be_reopened(shared: Shared, flags: int, first: int) -> None:
    for name in shared.names:
        fd = os.open(name, first)
        if first == os.O_PATH:
            # this lookup is still remembered: it gives the name's own right, once
            right = "ok" if name != shared.theirs or flags == READ else "EACCES"
            assert reopened(fd, flags) == right
        assert reopened(fd, flags) == "EACCES"
        os.close(fd)


def test_a_lookup_of_another_name_gives_that_names_right_only(shared: Shared) -> None:
    fd = os.open(shared.mine, os.O_PATH)
    os.stat(shared.theirs)
    assert reopened(fd, WRITE) == "EACCES"
    os.stat(shared.theirs)
    assert reopened(fd, READ) == "ok"
    assert shared.mnt.counts(2).mapped == 0
    os.stat(shared.theirs)
    again = os.open(f"/proc/self/fd/{fd}", READ)
    assert shared.mnt.counts(2).mapped == 1, "opened as the peer's name it is a mapping"
    os.close(again)
    other = shared.owner.do("alloc_frame")
    os.stat(shared.mine.parent / str(other))
    assert reopened(fd, READ) == "EACCES"
    os.close(fd)


def test_another_threads_lookup_is_no_right(shared: Shared) -> None:
    client = shared.mnt.client("""
        mine = hear()
        fd = os.open(hear(), os.O_RDONLY)
        looker = threading.Thread(target=os.stat, args=(mine,))
        looker.start()
        looker.join()
        say(outcome(f"/proc/self/fd/{fd}", os.O_RDWR))
        say(outcome(f"/proc/self/fd/{fd}", os.O_RDONLY))
    """)
    client.say(str(shared.mine))
    assert client.ask(str(shared.theirs)) == "EACCES"
    assert client.line() == "EACCES"


def test_a_descriptor_sent_to_another_process_is_as_good_as_it_is(shared: Shared) -> None:
    client = shared.mnt.client("""
        fd = int(hear())
        path = f"/proc/{os.getppid()}/fd/{fd}"
        say(outcome(path, os.O_RDWR), outcome(path, os.O_RDONLY))
    """)
    fd = os.open(shared.theirs, READ)
    assert client.ask(str(fd)) == "EACCES EACCES"
    os.close(fd)


MOUNTS = """
    import subprocess
    target = "/tmp/" + hear()
    open(target, "w").close()
    try:
        subprocess.run(["mount", "--bind", hear(), target], check=True)
    finally:
        say("bound")
    say(outcome(target, os.O_RDONLY), outcome(target, os.O_RDWR))
    os.unlink(target) if not os.path.ismount(target) else subprocess.run(["umount", target])
    os.path.exists(target) and os.unlink(target)
    say("done")
"""


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_bind_mounted_file_does_not_open(shared: Shared, which: int) -> None:
    client = shared.mnt.client(MOUNTS, prefix=["unshare", "-m", "--propagation", "private"])
    client.say(f"xenfs-bind-{os.getpid()}")
    assert client.ask(str(shared.names[which])) == "bound"
    assert client.line() == "EACCES EACCES"
    assert client.line() == "done"


def test_a_bind_mounted_directory_is_a_door(shared: Shared) -> None:
    client = shared.mnt.client(
        """
        import subprocess
        target = hear()
        subprocess.run(["mount", "--bind", hear(), target], check=True)
        say(outcome(f"{target}/foreign/1/{hear()}", os.O_RDONLY))
        say(outcome(f"{target}/../1/ctl", os.O_RDONLY))
        with Ctl(Path(target)) as ctl:
            say(ctl.ask("current_reservation"))
        subprocess.run(["umount", target], check=True)
        say("done")
        """,
        prefix=["unshare", "-m", "--propagation", "private"],
    )
    client.say("/mnt")
    client.say(str(shared.mnt.home(2)))
    assert client.ask(str(shared.ref)) == "ok"
    assert client.line() == "ENOENT"
    assert client.line() == "ok frames=1024"
    assert client.line() == "done"


def test_l6_a_process_of_another_pid_namespace_has_the_names_right(shared: Shared) -> None:
    client = shared.mnt.client(
        """
        say(os.getpid())
        mine, theirs = hear(), hear()
        say(outcome(theirs, os.O_RDONLY), outcome(theirs, os.O_RDWR), outcome(mine, os.O_RDWR))
        fd = os.open(theirs, os.O_RDONLY)
        say(outcome(f"/proc/self/fd/{fd}", os.O_RDWR))
        """,
        prefix=["unshare", "-p", "-f", "--kill-child", "--mount-proc"],
    )
    assert client.line() == "1"
    client.say(str(shared.mine))
    assert client.ask(str(shared.theirs)) == "ok EACCES ok"
    assert client.line() == "EACCES"


RACE = """
    mine, theirs = hear(), hear()
    wrong = []
    ends = time.monotonic() + 2

    def opens(path, flags, right):
        while time.monotonic() < ends and not wrong:
            got = outcome(path, flags)
            if got != right:
                wrong.append((path, flags, got))

    jobs = [(mine, os.O_RDWR, "ok"), (mine, os.O_RDONLY, "ok")]
    jobs += [(theirs, os.O_RDWR, "EACCES"), (theirs, os.O_RDONLY, "ok")]
    threads = [threading.Thread(target=opens, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say(wrong)
"""


def test_racing_threads_get_the_right_of_their_own_name(shared: Shared) -> None:
    racer = shared.mnt.client(RACE)
    racer.say(str(shared.mine))
    assert racer.ask(str(shared.theirs)) == "[]"


def test_a_read_only_mapping_stays_read_only(shared: Shared) -> None:
    shared.mine.write_bytes(b"x" * PAGE)
    fd = os.open(shared.theirs, READ)
    address = raw_map(fd, write=False)
    attempts: list[Callable[[], object]] = [
        lambda: mprotect(address, mmap.PROT_READ | mmap.PROT_WRITE),
        lambda: raw_map(fd),
        lambda: mapped(os.dup(fd)),
        lambda: os.open(shared.theirs, os.O_RDWR | os.O_TRUNC),
        lambda: os.open(shared.theirs, os.O_WRONLY | os.O_APPEND),
        lambda: os.open(f"/proc/self/fd/{fd}", WRITE),
    ]
    for attempt in attempts:
        with pytest.raises(PermissionError):
            attempt()
    for refused in (lambda: os.write(fd, b"y"), lambda: os.ftruncate(fd, 0)):
        with pytest.raises(OSError) as error:  # noqa: PT011 - EBADF or EINVAL, as the kernel likes
            refused()
        assert error.value.errno in (errno.EBADF, errno.EINVAL)
    os.truncate(shared.theirs, 0)
    raw_unmap(address)
    os.close(fd)
    assert shared.mine.read_bytes() == b"x" * PAGE


def test_nothing_can_be_made_moved_or_removed(shared: Shared) -> None:
    home, elsewhere = shared.mnt.home(1), shared.mnt.root / "hypervisor"
    attempts: list[Callable[[], object]] = [
        lambda: os.link(shared.mine, home / "frames" / "x"),
        lambda: os.link(shared.mine, shared.mnt.home(2) / "frames" / "9"),
        lambda: os.symlink(shared.mine, home / "x"),
        lambda: os.rename(shared.mine, home / "frames" / "x"),
        lambda: os.rename(home / "name", home / "uuid"),
        lambda: os.mknod(home / "x"),
        lambda: os.open(home / "x", os.O_CREAT | os.O_RDWR),
        lambda: os.open(home / "frames" / "99999999", os.O_CREAT | os.O_RDWR),
        lambda: os.unlink(home / "name"),
        lambda: os.unlink(shared.mine),
        lambda: os.mkdir(home / "x"),
        lambda: os.mkdir(elsewhere / "x"),
        lambda: os.rmdir(home / "frames"),
        lambda: os.rmdir(shared.mnt.root / "domains"),
        lambda: os.rmdir(shared.mnt.home(0)),
        lambda: os.chmod(shared.mine, 0o600),
        lambda: os.chmod(home, 0o755),
        lambda: os.chown(shared.mine, 1, 1),
        lambda: os.chown(home / "ctl", 1, 1),
    ]
    for attempt in attempts:
        with pytest.raises(PermissionError) as error:
            attempt()
        assert error.value.errno == errno.EPERM
    os.chmod(home, 0o700)


@pytest.mark.parametrize("name", ["01", "+1", "1 ", "-1", "65535", "32752", "x", "1e3", "१", "0x1", "99999999999"])
def test_a_domain_has_one_name(mnt: Xen, name: str) -> None:
    with pytest.raises(OSError) as error:  # noqa: PT011 - checked below
        (mnt.root / "domains" / name).mkdir()
    assert error.value.errno == errno.EINVAL
    assert not (mnt.root / "domains" / name).exists()


def test_a_dead_domains_directory_leads_nowhere(shared: Shared) -> None:
    folder = os.open(shared.mnt.home(2), os.O_PATH)
    foreign = os.open(shared.theirs.parent, os.O_PATH)
    ctl = os.open(shared.mnt.home(2) / "ctl", os.O_RDWR)
    shared.mnt.home(2).rmdir()
    shared.mnt.domain(2)  # the successor has the dead one's number, and now its grants
    try:
        assert outcome(shared.theirs, READ) == "ok"
        assert os.listdir(f"/proc/self/fd/{foreign}") == []
        for name, at, flags in ((str(shared.ref), foreign, READ), ("ctl", folder, WRITE)):
            with pytest.raises(OSError) as error:  # noqa: PT011 - checked below
                os.open(name, flags, dir_fd=at)
            assert error.value.errno in (errno.ENOENT, errno.ESRCH)
        os.write(ctl, b"alloc_frame\n")
        assert os.read(ctl, 4096).startswith(b"error ESRCH")
    finally:
        for fd in (folder, foreign, ctl):
            os.close(fd)


def test_a_ring_is_the_page_it_names(shared: Shared) -> None:
    assert shared.owner.ask(f"name_ring frame={shared.frame} name=vif-0-tx") == "ok"
    ring = shared.mnt.home(1) / "rings" / "vif-0-tx"
    assert ring.stat().st_ino == shared.mine.stat().st_ino
    ring.write_bytes(b"ring")
    assert shared.theirs.read_bytes()[:4] == b"ring"
    assert shared.owner.ask("unname_ring name=vif-0-tx") == "ok"
    assert not ring.exists()


@pytest.mark.parametrize(
    "name", ["../2", "vif-0-../tx", "vif/0/tx", "VIF-0-tx", "vif-0", "", ".-.-.", "vif-0-" + "x" * 60]
)
def test_r16_a_ring_has_a_plain_name(shared: Shared, name: str) -> None:
    assert shared.owner.ask(f'name_ring frame={shared.frame} name="{name}"').startswith("error EINVAL")
    assert list((shared.mnt.home(1) / "rings").iterdir()) == []


def test_root_of_another_namespace_is_nobody_here(shared: Shared) -> None:
    """A user namespace of its own makes nobody root of ours."""
    code = f"import os; os.listdir({str(shared.mnt.home(1))!r})"
    user = ["setpriv", "--reuid", "12001", "--regid", "12001", "--clear-groups"]
    command = [*user, "unshare", "-Ur", "/usr/bin/python3", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False)
    assert done.returncode
    assert "PermissionError" in done.stderr or "unshare" in done.stderr


def test_a_directory_handle_of_a_live_domain_stays_good(shared: Shared) -> None:
    with Ctl(Path(f"{shared.mnt.home(2)}/./../2")) as ctl:
        assert ctl.ask("current_reservation") == "ok frames=1024"
