"""A Unix user for each domain: the kernel keeps them apart, and lets them share what they grant each other."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.mounted.inside import PAGE
from tests.mounted.mount import Client, Xen

ALICE, BOB = 12001, 12002
SHELL = """
    become(int(hear()))
    def tried(path, flags):
        return outcome(path, flags)
    say("here")
    while True:
        try:
            say(eval(hear()))
        except OSError as error:
            say(errno.errorcode[error.errno])
        except RefusedError as error:
            say(error.code)
"""


class Users:
    """Alice is domain 1, Bob is domain 2."""

    def __init__(self, mnt: Xen) -> None:
        self.mnt = mnt
        mnt.domain(1, ALICE)
        mnt.domain(2, BOB)
        self.alice, self.bob = self.user(ALICE), self.user(BOB)

    def user(self, uid: int) -> Client:
        client = self.mnt.client(SHELL)
        assert client.ask(str(uid)) == "here"
        return client


@pytest.fixture
def users(mnt: Xen) -> Users:
    return Users(mnt)


def test_a_domains_directory_is_its_users(users: Users) -> None:
    found = users.mnt.home(1).stat()
    assert (found.st_uid, found.st_gid, stat.filemode(found.st_mode)) == (ALICE, ALICE, "drwx------")
    for name in ("name", "ctl", "memory", "frames", "grants", "foreign", "evtchn", "rings", "state", "uuid"):
        assert (users.mnt.home(1) / name).stat().st_uid == ALICE
    assert (users.mnt.home(1) / "max_memory").stat().st_uid == 0


@pytest.mark.parametrize("name", ["", "ctl", "name", "frames/1024", "frames", "foreign/1", "evtchn/1/notify"])
def test_nobody_enters_anothers_domain(users: Users, name: str) -> None:
    owner = users.mnt.ctl(1)
    assert owner.do("alloc_unbound remote_dom=2") == 1
    assert owner.grant(2)
    path = users.mnt.home(1) / name
    for flags in ("os.O_RDONLY", "os.O_RDONLY | os.O_NONBLOCK", "os.O_PATH"):
        # a directory that can be seen can be named, which is no more than that
        allowed = not name and flags == "os.O_PATH"
        assert users.bob.ask(f"outcome({str(path)!r}, {flags})") == ("ok" if allowed else "EACCES")
    if name:
        assert users.bob.ask(f"outcome({str(path)!r}, os.O_WRONLY | os.O_NONBLOCK)") == "EACCES"
    assert users.bob.ask(f"os.chdir({str(path)!r})") == "EACCES"
    assert users.bob.ask(f"os.listdir({str(path)!r})") == "EACCES"


def test_each_uses_what_the_other_granted(users: Users) -> None:
    users.alice.say("globals().update(ctl=Ctl(1))")
    assert users.alice.line() == "None"
    frame = users.alice.ask("ctl.do('alloc_frame')")
    ref = users.alice.ask(f"ctl.do('grant_access frame={frame} dom=2')")
    assert users.alice.ask(f"(home(1) / 'frames' / '{frame}').write_bytes(b'a' * PAGE)") == str(PAGE)
    assert users.bob.ask("globals().update(ctl=Ctl(2))") == "None"
    assert users.bob.ask(f"globals().update(page=mapped(home(2) / 'foreign' / '1' / '{ref}'))") == "None"
    assert users.bob.ask("page[:4]") == "b'aaaa'"
    assert users.bob.ask("page.__setitem__(0, 98)") == "None"
    assert users.alice.ask(f"(home(1) / 'frames' / '{frame}').read_bytes()[:2]") == "b'ba'"
    assert users.alice.ask("ctl.do('alloc_unbound remote_dom=2')") == "1"
    assert users.bob.ask("ctl.do('bind_interdomain remote_dom=1 remote_port=1')") == "1"
    assert users.bob.ask("(home(2) / 'evtchn/1/notify').write_text(chr(10))") == "1"
    assert users.alice.ask("os.read(os.open(home(1) / 'evtchn/1/pending', os.O_RDWR), 9)") == repr(b"\n")


def test_nobody_else_uses_what_is_granted(users: Users) -> None:
    ref = users.mnt.ctl(1).grant(0)[1]
    assert users.bob.ask(f"outcome(home(2) / 'foreign' / '1' / '{ref}', os.O_RDONLY)") == "EACCES"
    assert users.bob.ask("os.listdir(home(2) / 'foreign')") == "[]"
    assert users.bob.ask("os.listdir(home(2) / 'foreign' / '1')") == "[]"


def test_only_root_makes_ends_and_gives_domains(users: Users) -> None:
    root = repr(str(users.mnt.root / "domains"))
    assert users.alice.ask(f"os.mkdir({root} + '/7')") == "EACCES"
    assert users.alice.ask(f"os.rmdir({root} + '/1')") == "EACCES"
    assert users.alice.ask(f"os.chown({root} + '/1', {BOB}, -1)") == "EPERM"
    assert users.alice.ask(f"os.chown({root} + '/2', {ALICE}, -1)") == "EPERM"
    assert users.alice.ask(f"os.chmod({root} + '/1', 0o777)") == "EPERM"
    assert users.alice.ask("Ctl(1).do('create_domain dom=7')") == "EPERM"
    assert users.alice.ask("Ctl(1).do('destroy_domain dom=2')") == "EPERM"
    assert sorted(path.name for path in (users.mnt.root / "domains").iterdir()) == ["0", "1", "2"]


def test_a_user_balloons_within_what_root_allows(users: Users) -> None:
    assert users.alice.ask("(home(1) / 'max_memory').write_text('9999')") == "EACCES"
    assert users.alice.ask("Ctl(1).do('set_max_memory dom=1 frames=9999')") == "EPERM"
    assert users.alice.ask("(home(1) / 'memory').write_text('1025')") == "ENOMEM"
    assert users.alice.ask("(home(1) / 'memory').write_text('10')") == "2"
    assert users.alice.ask("(home(1) / 'memory').read_text().strip()") == "10"
    assert users.alice.ask("(home(1) / 'max_memory').read_text().strip()") == "1024"
    assert users.alice.ask("(home(1) / 'name').write_text('alices')") == "6"
    assert users.alice.ask("Ctl(1).do('set_memory dom=2 frames=0')") == "EPERM"


def test_the_trace_is_for_root(users: Users) -> None:
    hypervisor = users.mnt.root / "hypervisor"
    for name, right in (("trace", "EACCES"), ("trace_pipe", "EACCES"), ("frames", "ok"), ("version", "ok")):
        assert users.alice.ask(f"outcome({str(hypervisor / name)!r}, os.O_RDONLY)") == right
    assert users.alice.ask(f"outcome({str(users.mnt.root / '.lines')!r}, os.O_RDONLY)") == "EACCES"


def test_a_domain_that_is_given_away_is_the_new_users(users: Users) -> None:
    os.chown(users.mnt.home(1), BOB, BOB)
    assert users.bob.ask("Ctl(1).do('current_reservation')") == "1024"
    assert users.alice.ask("outcome(home(1) / 'ctl', os.O_RDWR)") == "EACCES"
    assert (users.mnt.home(1) / "name").stat().st_uid == BOB


def test_a_stale_directory_is_no_way_back_in(users: Users) -> None:
    assert users.alice.ask("globals().update(folder=os.open(home(1), os.O_RDONLY))") == "None"
    os.chown(users.mnt.home(1), BOB, BOB)
    assert users.alice.ask("os.open('ctl', os.O_RDWR, dir_fd=folder)") == "EACCES"


def test_another_users_thread_number_is_no_right(users: Users) -> None:
    """Bob's thread, by accident or patience, has the number that Alice's had when she looked at her page."""
    owner = users.mnt.ctl(1)
    frame, ref = owner.grant(2, flags=4)
    client = users.mnt.client("""
        page, theirs, alice, bob = hear(), hear(), int(hear()), int(hear())
        os.setresgid(bob, bob, 0)
        os.setresuid(-1, bob, 0)
        fd = os.open(theirs, os.O_RDONLY)
        os.seteuid(0)
        os.seteuid(alice)
        os.stat(page)
        os.seteuid(0)
        os.seteuid(bob)
        say(outcome(f"/proc/thread-self/fd/{fd}", os.O_RDWR), outcome(f"/proc/thread-self/fd/{fd}", os.O_RDONLY))
    """)
    for word in (users.mnt.home(1) / "frames" / str(frame), users.mnt.home(2) / "foreign" / "1" / str(ref), ALICE, BOB):
        client.say(str(word))
    assert client.line() == "EACCES EACCES"
    assert Path(users.mnt.home(1)).exists()
