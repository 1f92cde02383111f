"""Nonsense on every file of the tree, by several processes at once; afterwards the machine is as sound as before.

XENFS_FUZZ_SECONDS=60 for longer, XENFS_FUZZ_SEED to see one run again, as far as processes that race can be.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress

from tests.mounted.mount import Xen, until
from xenfs.hypervisor.table import BY_NAME

SECONDS = float(os.environ.get("XENFS_FUZZ_SECONDS", "8"))
SEED = int(os.environ.get("XENFS_FUZZ_SEED", random.randrange(1 << 30)))
PROCESSES = 4

FUZZ = """
    import random
    rng, ends = random.Random(int(hear())), time.monotonic() + float(hear())
    calls = eval(hear())
    zero, sink = os.open("/dev/zero", os.O_RDONLY), os.open("/dev/null", os.O_WRONLY)
    descriptors = os.open("/proc/self/fd", os.O_RDONLY)
    held = []

    # from here on there is nothing but the mount: no path, and no `..`, leads anywhere else
    os.chroot(xen())
    os.chdir("/")
    os.environ["XEN"] = "/"
    assert sorted(os.listdir("/")) == ["domains", "hypervisor", "xenstore"] == sorted(os.listdir("/.."))

    def some_path():
        path = xen()
        for _ in range(rng.randrange(1, 7)):
            try:
                names = os.listdir(path) + [".lines", "trace_pipe", "mem", "x", "0", "..", "8"]
            except OSError:
                return path
            path = path / rng.choice(names)
        return path

    def keep(thing, close):
        held.append((thing, close))
        while len(held) > 40:
            thing, close = held.pop(rng.randrange(len(held)))
            close(thing)

    def any_flags():
        extra = rng.choice([0, 0, os.O_TRUNC, os.O_APPEND, os.O_PATH])
        return extra | rng.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR])

    def open_file():
        fd = os.open(some_path(), any_flags() | os.O_NONBLOCK)
        keep(fd, os.close)
        return fd

    def some_fd():
        fds = [thing for thing, close in held if close is os.close]
        return rng.choice(fds) if fds else open_file()

    def numbers():
        return rng.choice([0, 1, 8, 100, 4095, 4096, 4097, 1 << 40, 2**63 - 1, rng.randrange(5000)])

    def words():
        noise = rng.randbytes(rng.randrange(5000))
        return rng.choice([b"", b"x", b"12", b"\\n", b"900\\n", bytes(4096), noise, b"\\xff" * 9])

    def map_page():
        keep(mmap.mmap(some_fd(), 4096, access=rng.choice([mmap.ACCESS_READ, mmap.ACCESS_WRITE])), mmap.mmap.close)

    def use_page():
        pages = [thing for thing, close in held if close is mmap.mmap.close]
        page = rng.choice(pages)
        # by system calls, which a page that was taken away makes fail and not kill
        rng.choice([lambda: os.write(sink, page), lambda: os.readv(zero, [page]), lambda: page.flush()])()

    def argument(name):
        number = rng.choice([0, 1, 2, 3, 8, 9, 10, 1023, rng.randrange(6000), 2**32 - 1, 2**64 - 1, -1])
        return f"{name}={rng.choice([number, number, number, number, 'self', 'vif-0-tx', 'timer'])}"

    def call():
        name, arguments = rng.choice(calls)
        if name in ("create_domain", "set_memory", "increase_reservation") and rng.random() < 0.9:
            arguments = ["dom", "frames"]
            return f"{name} dom={rng.randrange(1, 6)} frames={rng.randrange(2000)}"
        return " ".join([name, *(argument(a) for a in arguments if rng.random() < 0.9)])

    def talk():
        ctl = Ctl(rng.choice([0, 1, 1, 2, 2, 3, 4]), os.O_RDWR | os.O_NONBLOCK)
        lines = [call() for _ in range(rng.randrange(30))]
        os.write(ctl.fd, "".join(f"{line}\\n" for line in lines).encode() + rng.choice([b"", b"half a li", words()]))
        for _ in range(rng.randrange(3)):
            os.read(ctl.fd, rng.choice([1, 100, 65536]))
        keep(ctl, Ctl.close)

    actions = [
        open_file, open_file, map_page, map_page, use_page, use_page, use_page, talk, talk, talk, talk,
        lambda: os.pread(some_fd(), rng.choice([1, 4096, 65536]), numbers()),
        lambda: os.pread(some_fd(), rng.choice([1, 4096, 65536]), numbers()),
        lambda: os.pwrite(some_fd(), words(), numbers()),
        lambda: os.write(some_fd(), words()),
        lambda: os.read(some_fd(), 4096),
        lambda: os.ftruncate(some_fd(), numbers()),
        lambda: os.truncate(some_path(), numbers()),
        lambda: os.fsync(some_fd()),
        lambda: os.stat(some_path()),
        lambda: os.listdir(some_path()),
        lambda: os.utime(some_path()),
        lambda: os.mkdir(some_path() / rng.choice(["x", "y", "a b", ".value", "\\xff"])),
        lambda: keep(os.open(some_path() / rng.choice("abc"), os.O_CREAT | any_flags(), 0o600), os.close),
        lambda: os.setxattr(some_path(), "user.xenstore.perms", rng.choice([b"n0", b"r1", b"x", b"", words()])),
        lambda: os.chmod(some_path(), rng.choice([0o700, 0o666, 0o644])),
        lambda: os.rename(some_path(), some_path()),
        lambda: os.link(some_path(), some_path()),
        lambda: os.unlink(some_path()),
        lambda: os.mkdir(home(rng.randrange(1, 6))),
        lambda: os.rmdir(home(rng.randrange(3, 6))) if rng.random() < 0.2 else None,
        lambda: os.chown(home(rng.randrange(1, 6)), rng.randrange(3), -1),
        lambda: os.close(os.open(str(some_fd()), any_flags() | os.O_NONBLOCK, dir_fd=descriptors)),
        lambda: os.posix_fadvise(some_fd(), 0, 4096, os.POSIX_FADV_DONTNEED),
        lambda: select.select([some_fd()], [], [], 0),
    ]
    done = failed = 0
    while time.monotonic() < ends:
        try:
            rng.choice(actions)()
            done += 1
        except (OSError, ValueError, OverflowError, IndexError, TypeError, BufferError):
            failed += 1
    say(done, failed)
    hear()
"""


def test_nonsense_from_all_sides(own_mnt: Xen) -> None:
    print(f"XENFS_FUZZ_SEED={SEED}")
    for domid in (1, 2, 3):
        own_mnt.domain(domid)
    calls = [(row.name, list(row.takes)) for row in BY_NAME.values()]
    clients = [own_mnt.client(FUZZ) for _ in range(PROCESSES)]
    for number, client in enumerate(clients):
        for word in (SEED + number, SECONDS, calls):
            client.say(str(word))
    ends = time.monotonic() + SECONDS + 20
    while not all(client.speaks(1) for client in clients) and time.monotonic() < ends:
        own_mnt.mount.arm()  # for longer than a hang would last
    for client in clients:
        done, failed = (int(word) for word in client.line().split())
        assert done > 50
        assert failed > 50
    adds_up(own_mnt)
    for client in clients:
        client.kill()
    until(lambda: nothing_in_use(own_mnt))
    adds_up(own_mnt)
    for path in (own_mnt.root / "domains").iterdir():
        if path.name != "0":
            with suppress(FileNotFoundError):  # what a client asked when it was killed may be done only now
                path.rmdir()
    until(lambda: not own_mnt.dying())
    adds_up(own_mnt)
    assert own_mnt.domain(9).exists()
    assert own_mnt.ctl(9).ask("current_reservation") == "ok frames=1024"


def adds_up(mnt: Xen) -> None:
    """Every frame is owned by one domain or free."""
    *domains, total = mnt.lines()
    assert sum(int(line[2]) for line in domains) + int(total[3]) == int(total[1])


def nothing_in_use(mnt: Xen) -> bool:
    """No living domain has anything granted, mapped or in flight, and none is dying."""
    *domains, _ = mnt.lines()
    return all(line[1] != "dying" and line[3:6] == ["0", "0", "0"] for line in domains)
