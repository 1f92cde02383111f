"""What only a domain of a mount does: descriptors, stale pages, the death of the daemon, other processes."""

from __future__ import annotations

import errno
import os
import selectors
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.conformance.refusals import refusal
from tests.conformance.world import Mount, MountedWorld, need_mount
from xenfs.abi.grant_table import GntStatus
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import BareDomain
from xenfs.domain.mounted import HypervisorGone, MountedDomain, default_root, open_domain

SOON = 10.0


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_mapping_keeps_no_descriptor(mounted: MountedWorld) -> None:
    with mounted.domain(1) as one, mounted.domain(2) as two:
        frames = one.memory.alloc(64)
        refs = one.memory.grant(frames, 2)
        before = descriptors()
        with one.memory.view(frames), two.memory.map(1, refs):
            assert descriptors() == before
        with refusal(errno.EACCES):
            two.memory.map(1, [*refs, refs[-1] + 1])
        with refusal(errno.ESRCH):
            two.memory.map(77, refs)
        assert descriptors() == before


def test_closing_keeps_no_descriptor(mounted: MountedWorld) -> None:
    before = descriptors()
    with mounted.domain(1) as one, mounted.domain(2) as two:
        here = one.events.alloc_unbound(2)
        two.events.bind_interdomain(1, here.port)
        one.events.bind_virq(0)
    with refusal(errno.ESRCH):
        mounted.domain(77)
    assert descriptors() == before


def test_a_domain_is_entered_by_the_number_that_the_environment_says(
    mounted: MountedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XEN", str(mounted.root))
    monkeypatch.setenv("XEN_DOMID", "2")
    with open_domain() as domain:
        assert domain.domid == 2
    for said in ("", "two", "-1"):
        monkeypatch.setenv("XEN_DOMID", said)
        with refusal(errno.EINVAL):
            open_domain()


def test_a_stale_page_in_a_system_call_is_efault(mounted: MountedWorld) -> None:
    reader, writer = os.pipe()
    with mounted.domain(1) as sender, mounted.domain(2) as receiver:
        receiver.memory.decrease_reservation(receiver.memory.alloc())
        refs = receiver.memory.accept_transfer(1)
        frames = sender.memory.alloc()
        with sender.memory.view(frames) as before:
            before[:4] = b"page"
            assert sender.memory.transfer(frames, 2, refs) == [GntStatus.okay]
            assert receiver.memory.end_transfer(refs) == frames
            with pytest.raises(OSError, check=lambda error: error.errno in (errno.EFAULT, errno.EIO)):
                os.write(writer, before[:4])
        with receiver.memory.view(frames) as after:
            assert bytes(after[:4]) == b"page"
    os.close(reader)
    os.close(writer)


def test_e6_a_notifier_whose_peer_never_reads_is_not_blocked(mounted: MountedWorld) -> None:
    with (
        mounted.domain(1) as one,
        mounted.domain(2) as two,
        one.events.alloc_unbound(2) as here,
        two.events.bind_interdomain(1, here.port) as there,
    ):
        for _ in range(70_000):
            here.notify()
        with pytest.raises(BlockingIOError):
            os.write(there.fileno(), b"\n")
        assert there.wait(0)
        assert not there.drain(), "a full pipe of them is one event"


def test_memory_and_events_need_no_daemon(own_mount: Mount) -> None:
    with (
        MountedDomain(0, own_mount.root) as domain,
        domain.events.alloc_unbound(0) as here,
        domain.events.bind_interdomain(0, here.port) as there,
    ):
        frames = domain.memory.alloc(8)
        refs = domain.memory.grant(frames, 0)
        with domain.memory.view(frames) as mine, domain.memory.map(0, refs) as theirs:
            there.drain()
            own_mount.stop()
            for number in range(100):
                mine[number] = number
                here.notify()
                assert there.wait(SOON)
                assert theirs[number] == number
                there.notify()
                assert here.wait(SOON)
                assert not here.wait(0)
            assert not domain.gone
            own_mount.go_on()


def test_a_directory_anywhere_tells_which_domain_it_is(mounted: MountedWorld) -> None:
    with MountedDomain(mounted.root / "domains" / "2") as domain:
        assert domain.domid == 2
        assert repr(domain) == "domain 2"
        assert not list((mounted.root / "domains" / "2" / "evtchn").iterdir())


def test_without_a_mount_it_says_where_one_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XEN", str(tmp_path))
    assert default_root() == tmp_path
    with pytest.raises(OSError, match=f"no xenfs at {tmp_path}, mount it or set XEN") as caught:
        open_domain(1)
    assert caught.value.errno == errno.ENOENT
    with refusal(errno.ENOENT):
        MountedDomain(tmp_path / "elsewhere")


def test_a_process_that_would_die_of_sigpipe_is_told(mounted: MountedWorld) -> None:
    program = "import signal; signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n" + ENTER
    with peer(mounted.root, program) as process:
        said, _ = process.communicate(timeout=SOON)
    assert said == "SIGPIPE would end this process when a peer closes: set it to SIG_IGN\n"


ENTER = """
import sys
from xenfs.domain import Refused
from xenfs.domain.mounted import open_domain
try:
    domain = open_domain(2, sys.argv[1])
except Refused as error:
    sys.exit(print(error.strerror))
"""
MAP = """
view = domain.memory.map(1, [int(ref) for ref in sys.argv[2:]]).view
view[0] += 1
print("mapped", view[0], flush=True)
sys.stdin.read()
"""


def peer(root: Path, program: str, *words: object) -> subprocess.Popen[str]:
    """A process of its own in domain 2."""
    command = [sys.executable, "-c", program, str(root), *map(str, words)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


LIMIT = """
import os, resource
def descriptors(more):
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, 64))
free = os.dup(0)
os.close(free)
frames = domain.memory.alloc(64)
refs = domain.memory.grant(frames, 2)
descriptors(2)
domain.memory.view(frames), domain.memory.map(2, refs)
for more, call in (
    (0, lambda: domain.memory.view(frames)),
    (1, lambda: domain.memory.map(2, refs)),
    (0, domain.events.bind_ipi),
    (1, domain.events.bind_ipi),
):
    descriptors(more)
    try:
        call()
    except Refused as error:
        print(error.errno, error.strerror)
descriptors(8)
print(os.listdir(sys.argv[1] + "/domains/2/evtchn"))
"""


def test_few_descriptors_map_many_pages_and_too_few_are_named(mounted: MountedWorld) -> None:
    with peer(mounted.root, ENTER + LIMIT) as process:
        said, _ = process.communicate(timeout=SOON)
    *refusals, ports = said.splitlines()
    assert [line.split()[0] for line in refusals] == [str(errno.EMFILE)] * 4
    assert all("RLIMIT_NOFILE" in line for line in refusals)
    assert ports == "[]", "a port whose files could not be opened is closed again"


def test_a_killed_process_maps_nothing_any_more(mounted: MountedWorld) -> None:
    with mounted.domain(1) as one:
        frames = one.memory.alloc(3)
        refs = one.memory.grant(frames, 2)
        with one.memory.view(frames) as mine, peer(mounted.root, ENTER + MAP, *refs) as process:
            assert process.stdout is not None
            mine[0] = 41
            assert process.stdout.readline() == "mapped 42\n"
            assert mine[0] == 42
            assert one.memory.end_access(refs) == refs
            assert mounted.counts(2).mapped == 3
            process.kill()
            process.wait(SOON)
        assert mounted.counts(2).mapped == 0
        assert one.memory.end_access(refs) == []


def test_a_fork_does_not_keep_a_mapping(mounted: MountedWorld) -> None:
    with mounted.domain(1) as one, mounted.domain(2) as two:
        refs = one.memory.grant(one.memory.alloc(), 2)
        region = two.memory.map(1, refs)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        os.close(reader)
        region.close()
        assert one.memory.end_access(refs) == []
        os.close(writer)
        os.waitpid(child, 0)


def test_threads_get_each_their_own_answers(mounted: MountedWorld) -> None:
    wrong: list[BaseException] = []

    def work(domain: BareDomain, count: int) -> None:
        try:
            for _ in range(20):
                frames = domain.memory.alloc(count)
                assert len(frames) == count
                with domain.memory.view(frames) as view:
                    assert not any(view[::PAGE_SIZE])
                    view[::PAGE_SIZE] = bytes([count]) * count
                domain.memory.free(frames)
        except BaseException as error:
            wrong.append(error)

    with mounted.domain(1) as one:
        threads = [threading.Thread(target=work, args=(one, count)) for count in (1, 2, 3, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
    assert wrong == []


def test_when_the_daemon_dies_every_call_says_so(own_mount: Mount) -> None:
    domain = MountedDomain(0, own_mount.root)
    with domain, selectors.DefaultSelector() as selector:
        frames = domain.memory.alloc(2)
        refs = domain.memory.grant(frames, 0)
        region = domain.memory.map(0, refs)
        region.view[0] = 5
        channel = domain.events.bind_ipi()
        selector.register(domain.gone_fd, selectors.EVENT_READ)
        assert not domain.gone
        assert selector.select(0) == []

        own_mount.kill()
        assert selector.select(SOON)
        assert domain.gone
        for call in (
            domain.memory.alloc,
            lambda: domain.memory.free(frames),
            lambda: domain.memory.view(frames),
            lambda: domain.memory.map(0, refs),
            lambda: domain.events.alloc_unbound(0),
            lambda: channel.wait(SOON),
            domain.check,
            lambda: MountedDomain(0, own_mount.root),
        ):
            with pytest.raises(HypervisorGone, check=lambda error: error.errno == errno.ENOTCONN):
                call()
        assert region.view[0] == 5, "a page that was touched is still there"
        channel.notify()
        assert channel.wait(SOON)
        channel.close()
        region.close()
    domain.close()


def test_a_wait_ends_when_the_daemon_dies(own_mount: Mount) -> None:
    ended: list[str] = []

    def hear() -> None:
        try:
            channel.wait()
        except HypervisorGone as error:
            ended.append(str(error))

    with MountedDomain(0, own_mount.root) as domain, domain.events.bind_ipi() as channel:
        listener = threading.Thread(target=hear)
        listener.start()
        own_mount.kill()
        listener.join(SOON)
    assert ended == [f"[Errno {errno.ENOTCONN}] domain 0: the hypervisor is gone, mount xenfs again"]


def test_the_warden_kills_a_daemon_that_hangs(own_mount: Mount) -> None:
    with MountedDomain(0, own_mount.root) as domain:
        own_mount.stop()
        own_mount.arm(seconds=0.2)
        with pytest.raises(HypervisorGone):
            domain.memory.alloc()
        assert not own_mount.rest()


def test_nothing_is_left_when_whoever_has_begun_it_is_killed_before_it_is_ready(tmp_path: Path) -> None:
    need_mount()
    root = tmp_path / "xen"
    root.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "xenfs.testing.warden", str(root), "16384"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as warden:  # fmt: skip
        assert warden.stdin is not None
        assert warden.stdout is not None
        assert warden.stderr is not None
        warden.stdin.close()
        warden.stdout.close()
        said = warden.stderr.read()  # to the end of the daemon, which has it too
        assert warden.wait(SOON) == 0
    assert b"Traceback" not in said
    assert not root.is_mount()
    assert list(root.parent.iterdir()) == [root]
