"""Ioctls of hostile and unlucky callers: the daemon reads and writes their memory, and must not come to harm by it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.hostile.files import answers, refused
from tests.mounted.devices import Evtchn, by_pointer, native, twin
from tests.mounted.inside import mapped
from tests.mounted.mount import Xen, stacks, until
from tests.need import need_tool
from xenfs.abi import evtchn, gntalloc, gntdev, hypercall
from xenfs.fs.dev.ioctl import Remotely

DEVICES = ("evtchn", "gntalloc", "gntdev", "hypercall")
REQUEST = evtchn.BindUnboundPort(remote_domain=2)

TRAP = """
    import fcntl
    # memory that nobody will ever fill in: whoever reads it waits, until this process ends (userfaultfd(2))
    from tests.mounted.devices import *
    from xenfs.abi import evtchn

    def trap():
        fd = LIBC.syscall(323, os.O_CLOEXEC)
        if fd < 0:
            say("no userfaultfd")
            sys.exit()
        os.set_inheritable(fd, False)
        fcntl.ioctl(fd, 0xC018AA3F, struct.pack("<QQQ", 0xAA, 0, 0))
        memory = mmap.mmap(-1, 4096)
        at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        fcntl.ioctl(fd, 0xC020AA00, bytearray(struct.pack("<QQQQ", at, 4096, 1, 0)))
        return at, (fd, memory)

    def bad(address):
        try:
            by_pointer(device.fd, evtchn.BIND_UNBOUND_PORT.native, address)
        except OSError:
            pass

    device = Evtchn(1)
"""


def taken(mnt: Xen) -> bool:
    """Whether the daemon has a request whose memory it waits for."""
    return any("userfault" in stack for stack in stacks(mnt.pid))


@pytest.fixture
def device(mnt: Xen) -> Evtchn:
    """dev/evtchn of domain 1."""
    mnt.domain(1)
    mnt.domain(2)
    return Evtchn(mnt.home(1))


def test_bad_pointers(mnt: Xen, device: Evtchn) -> None:
    end = mmap.mmap(-1, 8192)
    at = ctypes.addressof(ctypes.c_char.from_buffer(end))
    ctypes.CDLL(None).munmap(ctypes.c_void_p(at + 4096), ctypes.c_size_t(4096))
    for address in (0, 8, at + 4096, at + 4094, (1 << 47) - 2, 0xFFFF_8000_0000_0000, (1 << 64) - 4):
        refused(errno.EFAULT, by_pointer, device.fd, evtchn.BIND_UNBOUND_PORT.native, address)
    assert by_pointer(device.fd, evtchn.BIND_UNBOUND_PORT.native, at + 4092) == 1
    device.close()
    until(lambda: not list((mnt.home(1) / "evtchn").iterdir()))
    answers(mnt)


def test_a_struct_in_a_page_of_this_very_mount(mnt: Xen, device: Evtchn) -> None:
    """Reading it faults, and the fault is a request to the daemon that is reading."""
    ctl = mnt.ctl(1)
    frame = ctl.do("alloc_frame")
    (mnt.home(1) / "frames" / str(frame)).write_bytes(REQUEST.emit())
    page = mapped(mnt.home(1) / "frames" / str(frame))
    at = ctypes.addressof(ctypes.c_char.from_buffer(page))
    assert by_pointer(device.fd, evtchn.BIND_UNBOUND_PORT.native, at) == 1
    fd = os.open(mnt.home(1) / "dev" / "gntalloc", os.O_RDWR)
    ctypes.memmove(at, gntalloc.AllocGref(domid=2, flags=1, count=1).emit(), 24)
    assert by_pointer(fd, gntalloc.ALLOC_GREF.native, at) == 0  # and its answer is written there too
    assert gntalloc.AllocGref.parse(bytes(page[:24])).gref_ids >= 8
    os.close(fd)
    device.close()


def test_a_caller_whose_memory_never_comes_hangs_alone(mnt: Xen, device: Evtchn) -> None:
    user = mnt.client(
        TRAP
        + """
    at, held = trap()
    threading.Thread(target=bad, args=[at], daemon=True).start()
    say("caught")
    hear()
    """
    )
    said = user.line()
    if said != "caught":
        pytest.skip(said)
    until(lambda: taken(mnt))
    other = Evtchn(mnt.home(2))
    assert native(other.fd, evtchn.BIND_UNBOUND_PORT, REQUEST)[0] == 1  # another domain's does not wait for it
    assert twin(device.fd, evtchn.BIND_UNBOUND_PORT, REQUEST)[0] == 1  # nor what needs nobody's memory
    answers(mnt)
    user.kill()
    assert native(device.fd, evtchn.BIND_UNBOUND_PORT, REQUEST)[0] == 2  # and the domain's own goes on
    other.close()
    device.close()
    until(lambda: not list((mnt.home(1) / "evtchn").iterdir()))


def test_kill_9_in_the_middle_of_many_ioctls(mnt: Xen, device: Evtchn) -> None:
    for _ in range(10):
        user = mnt.client("""
            from tests.mounted.devices import *
            from xenfs.abi import evtchn, gntalloc
            device = Evtchn(1)
            fd = os.open(home(1) / "dev" / "gntalloc", os.O_RDWR)
            def work():
                while True:
                    port = native(device.fd, evtchn.BIND_UNBOUND_PORT, evtchn.BindUnboundPort(remote_domain=2))[0]
                    native(fd, gntalloc.ALLOC_GREF, gntalloc.AllocGref(domid=2, flags=1, count=1))
                    native(device.fd, evtchn.UNBIND, evtchn.Unbind(port=port))
                    say(port)
            for _ in range(6):
                threading.Thread(target=work, daemon=True).start()
            hear()
        """)
        user.line()
        user.line()
        user.kill()
    device.close()
    until(lambda: mnt.counts(1).granted == 0)
    until(lambda: not list((mnt.home(1) / "evtchn").iterdir()))
    answers(mnt)


def test_a_killed_caller_is_kept_until_its_answer_so_its_number_cannot_be_anothers(mnt: Xen, device: Evtchn) -> None:
    """The daemon has taken the request, and waits: for that long the kernel does not let the caller's thread go."""
    user = mnt.client(
        TRAP
        + """
    at, held = trap()
    def work():
        say(threading.get_native_id())
        bad(at)
    threading.Thread(target=work, daemon=True).start()
    hear()
    """
    )
    said = user.line()
    if not said.isdigit():
        pytest.skip(said)
    thread = Path(f"/proc/{user.pid}/task/{said}")
    until(lambda: taken(mnt))  # what it has not read yet the kernel takes back, and the caller may go
    os.kill(mnt.pid, signal.SIGSTOP)
    try:
        user.process.send_signal(signal.SIGKILL)
        until(lambda: "SigPnd:\t0000000000000100" in (thread / "status").read_text())
        assert thread.exists()
    finally:
        os.kill(mnt.pid, signal.SIGCONT)
    user.end()
    assert not thread.exists()
    device.close()


def test_a_caller_in_a_pid_namespace_below_ours_is_known_by_its_number_here(mnt: Xen, device: Evtchn) -> None:
    need_tool("unshare", "util-linux")
    code = """
        from tests.mounted.devices import *
        from xenfs.abi import evtchn
        say(native(Evtchn(1).fd, evtchn.BIND_UNBOUND_PORT, evtchn.BindUnboundPort(remote_domain=2))[0])
    """
    user = mnt.client(code, ["unshare", "--pid", "--fork", "--kill-child"])
    assert user.line() == "1"
    device.close()


def test_a_caller_without_a_number_here_may_use_twins_only() -> None:
    """One outside our pid namespace: the kernel says 0, and there is no memory to be read by that."""
    answers: list[object] = []

    class Outside:
        tid = 0

    Remotely(lambda tid: bytes(tid)).start(Outside(), answers.append)  # type: ignore[arg-type]
    (error,) = answers
    assert isinstance(error, OSError)
    assert error.errno == errno.EPERM


def test_where_the_daemon_may_not_trace_its_caller_only_twins_work(device: Evtchn) -> None:
    """As under Yama's ptrace_scope 1, simulated: process_vm_readv answers EPERM to whoever may not trace."""
    code = """
        import os, errno
        from tests.mounted.inside import become
        from xenfs.fs.dev import caller
        become(12345)
        try:
            caller.fetch(int(os.environ["TARGET"]), 4096, 1)
        except OSError as error:
            print(errno.errorcode[error.errno])
    """
    environment = {**os.environ, "TARGET": str(os.getpid())}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert done.stdout == "EPERM\n"
    device.close()


@pytest.mark.parametrize("name", DEVICES)
def test_any_number_gets_an_errno_that_is_documented(mnt: Xen, device: Evtchn, name: str) -> None:
    rng = random.Random(name)
    allowed = {0, errno.ENOTTY, errno.EFAULT, errno.EINVAL, errno.ENOTCONN, errno.ENOENT, errno.ENOSPC, errno.ESRCH}
    allowed |= {errno.EACCES, errno.EEXIST, errno.E2BIG, errno.ENOMEM, errno.EBUSY}
    letters = "EGXPB"
    fd = os.open(mnt.home(1) / "dev" / name, os.O_RDWR)
    for _ in range(1500):
        number = rng.choice((0, 1, 2, 3)) << 30 | ord(rng.choice(letters)) << 8 | rng.randrange(16)
        number |= rng.choice((0, 2, 4, 8, 16, 24, 40, rng.randrange(1 << 12))) << 16
        data = bytearray(rng.choice((bytes(4096), rng.randbytes(4096))))
        code = 0
        try:
            if number >> 30:
                fcntl.ioctl(fd, number, data)
            else:
                address = rng.choice((0, 8, ctypes.addressof(ctypes.c_char.from_buffer(data))))
                by_pointer(fd, number, address)
        except OSError as error:
            code = error.errno or 0
        assert code in allowed, f"{number:#x}: {os.strerror(code)}"
    os.close(fd)
    device.close()
    answers(mnt)
    until(lambda: mnt.counts(1).granted == 0)


def test_no_other_file_knows_ioctls(files: list[Path]) -> None:
    numbers = [call.native for module in (evtchn, gntalloc, gntdev) for call in module.IOCTLS]
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        for number in numbers:
            refused(errno.ENOTTY, by_pointer, fd, number, 0)
        for number in (evtchn.NOTIFY.twin(), hypercall.BATCH.twin(64), 0xFFFF_FFFF):
            refused(errno.ENOTTY, fcntl.ioctl, fd, number, bytearray(1 << 14))
        os.close(fd)
