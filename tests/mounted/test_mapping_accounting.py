"""A grant is mapped from its open to the end of the last reference, and not a moment longer."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.mounted.inside import mapped, number
from tests.mounted.mount import Xen, until
from xenfs.hypervisor.snapshot import Counts

UNMAP = """
    addresses = []
    for ref in hear().split():
        fd = os.open(home(2) / "foreign" / "1" / ref, os.O_RDWR)
        addresses.append(raw_map(fd))
        os.close(fd)
    say("mapped")
    hear()
    for address in addresses:
        raw_unmap(address)
    say("unmapped")
"""
END = """
    ctl = Ctl(1)
    say("open")
    refs = hear().split()
    say(sorted(set(ctl.all([f"end_access ref={ref}" for ref in refs]))))
"""


def granted(mnt: Xen, count: int) -> list[int]:
    """Grants of domain 1 to domain 2."""
    owner = mnt.ctl(1)
    return [owner.grant(2)[1] for _ in range(count)]


def test_a_thousand_unmapped_grants_can_be_ended_at_once(mnt: Xen) -> None:
    mnt.domain(1).joinpath("max_memory").write_text("2048")
    mnt.home(1).joinpath("memory").write_text("2048")
    mnt.domain(2)
    mapper = mnt.client("while True:" + UNMAP.replace("\n", "\n    "))
    owner = mnt.ctl(1)
    frames = [number(line) for line in owner.all(["alloc_frame"] * 1000)]
    started, rounds = time.monotonic(), 0
    while rounds < 20 or (rounds < 100 and time.monotonic() < started + 10):
        refs = [number(line) for line in owner.all([f"grant_access frame={frame} dom=2" for frame in frames])]
        assert mapper.ask(" ".join(map(str, refs))) == "mapped"
        assert mapper.ask() == "unmapped"
        assert set(owner.all([f"end_access ref={ref}" for ref in refs])) == {"ok"}
        rounds += 1


def test_a_call_never_overtakes_an_unmap(mnt: Xen) -> None:
    mnt.domain(1)
    mnt.domain(2)
    refs = " ".join(map(str, granted(mnt, 40)))
    mapper, ender = mnt.client(UNMAP), mnt.client(END)
    assert mapper.ask(refs) == "mapped"
    assert ender.line() == "open"
    # with the daemon stopped both lie in its queue, and are taken as one batch
    os.kill(mnt.pid, signal.SIGSTOP)
    try:
        assert mapper.ask() == "unmapped"
        ender.say(refs)
        until(lambda: ender.waits)
    finally:
        os.kill(mnt.pid, signal.SIGCONT)
    assert ender.line() == "['ok']"


def test_kill_9_releases_all_that_a_process_had(mnt: Xen) -> None:
    mnt.domain(1)
    mnt.domain(2)
    refs = granted(mnt, 50)
    user = mnt.client("""
        ctl = Ctl(2)
        held = [mapped(home(2) / "foreign" / "1" / ref) for ref in hear().split()]
        for page in held:
            page[:] = bytes([7]) * PAGE
        ports = [ctl.do("alloc_unbound remote_dom=1") for _ in range(20)]
        frames = [ctl.do("alloc_frame") for _ in range(20)]
        ctl.do(f"grant_access frame={frames[0]} dom=1")
        ctl.do(f"name_ring frame={frames[1]} name=vif-0-tx")
        ctl.do("accept_transfer dom=1")
        views = [mapped(home(2) / "frames" / str(frame)) for frame in frames]
        say("ready")
        hear()
    """)
    assert user.ask(" ".join(map(str, refs))) == "ready"
    assert mnt.counts(2) == Counts(1024, 1, 50, 1)
    assert len(list((mnt.home(2) / "evtchn").iterdir())) == 20
    user.kill()
    until(lambda: mnt.counts(2) == Counts(1024, 0, 0, 0), 1)
    assert not list((mnt.home(2) / "evtchn").iterdir())
    assert not list((mnt.home(2) / "grants").iterdir())
    assert not list((mnt.home(2) / "rings").iterdir())
    mnt.home(2).joinpath("memory").write_text("0")


def test_what_a_dead_domain_maps_stays_mapped_until_its_process_lets_go(mnt: Xen) -> None:
    mnt.domain(1)
    mnt.domain(2)
    owner = mnt.ctl(1)
    frame, ref = owner.grant(2)
    user = mnt.client("""
        page = mapped(home(2) / "foreign" / "1" / hear())
        say("mapped")
        while hear():
            page[:4] = b"late"
            say(bytes(page[4:8]))
    """)
    assert user.ask(str(ref)) == "mapped"
    mnt.home(2).rmdir()
    assert mnt.dying() == ["2"]
    mnt.domain(2)  # the number is free, and its next owner has nothing to do with that mapping
    assert mnt.counts(2) == Counts(1024, 0, 0, 0)
    own = mapped(mnt.home(1) / "frames" / str(frame))
    own[4:8] = b"here"
    assert user.ask("still there?") == "b'here'"
    assert own[:4] == b"late"
    assert owner.ask(f"end_access ref={ref}").startswith("error EBUSY")
    assert owner.ask(f"free_frame frame={frame}").startswith("error EBUSY")
    assert "maps=1" in (mnt.home(1) / "grants" / str(ref) / "info").read_text()
    user.kill()
    until(lambda: not mnt.dying())
    own.close()
    assert owner.ask(f"end_access ref={ref}") == "ok"
    assert owner.ask(f"free_frame frame={frame}") == "ok"


ONE = """
    path = home(2) / "foreign" / "1" / hear()
    fd = os.open(path, os.O_RDWR)
"""


@pytest.mark.parametrize(
    ("keep", "last"),
    [
        ("address = raw_map(fd); os.close(fd)", "raw_unmap(address)"),
        ("address = raw_map(fd); raw_unmap(address)", "os.close(fd)"),
        ("address = raw_map(fd); raw_map(fd); os.close(fd); raw_unmap(address)", "os._exit(0)"),
        ("other = os.dup(fd); os.close(fd)", "os.close(other)"),
        ("os.set_inheritable(fd, True)", "os.execv('/bin/true', ['true'])"),
        ("address = raw_map(fd); os.close(fd)", "os.execv('/bin/true', ['true'])"),
        ("address = raw_map(fd); os.close(fd)", "os.kill(os.getpid(), signal.SIGKILL)"),
        ("a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [fd]); os.close(fd)", "a.close(); b.close()"),
    ],
)
def test_a_grant_is_mapped_until_the_last_reference_goes(mnt: Xen, keep: str, last: str) -> None:
    mnt.domain(1)
    mnt.domain(2)
    (ref,) = granted(mnt, 1)
    user = mnt.client(f'{ONE}\n    {keep}\n    say("kept")\n    hear()\n    {last}\n    say("gone")\n    hear()')
    assert user.ask(str(ref)) == "kept"
    assert mnt.counts(2).mapped == 1
    user.say()
    until(lambda: mnt.counts(2).mapped == 0)


def test_a_child_made_by_fork_shares_the_mapping(mnt: Xen) -> None:
    mnt.domain(1)
    mnt.domain(2)
    (ref,) = granted(mnt, 1)
    user = mnt.client(f"""{ONE}
    address = raw_map(fd)
    os.close(fd)
    child = os.fork()
    if child == 0:
        die_with_parent()
        signal.pause()
    raw_unmap(address)
    say("unmapped here")
    hear()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    say("unmapped there")
    hear()
    """)
    assert user.ask(str(ref)) == "unmapped here"
    assert mnt.counts(2).mapped == 1
    assert user.ask() == "unmapped there"
    until(lambda: mnt.counts(2).mapped == 0, 1)


def test_each_open_is_a_mapping_of_its_kind(mnt: Xen) -> None:
    mnt.domain(1)
    mnt.domain(2)
    (ref,) = granted(mnt, 1)
    path, info = mnt.home(2) / "foreign" / "1" / str(ref), mnt.home(1) / "grants" / str(ref) / "info"
    with path.open("rb"), path.open("rb"), path.open("r+b"):
        assert "readers=2 writers=1 maps=3" in info.read_text()
    assert "readers=0 writers=0 maps=0" in info.read_text()


def test_looking_is_no_mapping(mnt: Xen) -> None:
    mnt.domain(1)
    owner = mnt.ctl(1)
    frame, ref = owner.grant(2)
    assert owner.ask(f"name_ring frame={frame} name=vif-0-tx") == "ok"
    names = [f"frames/{frame}", f"grants/{ref}/page", "rings/vif-0-tx"]
    views = [mapped(mnt.home(1) / name) for name in names]
    views[0][:4] = b"look"
    assert [view[:4] for view in views] == [b"look"] * 3
    assert mnt.counts(1) == Counts(1024, 1, 0, 0)
    assert owner.ask(f"end_access ref={ref}") == "ok"
    for view in views:
        view.close()
