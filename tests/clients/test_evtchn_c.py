"""C programs on dev/evtchn: what real Xen answered, and libxenevtchn in one domain and in two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import HERE, Inside, said
from tests.mounted.mount import Xen

pytestmark = pytest.mark.timeout(110)
Built = Callable[..., Path]

DIFFERENT = {
    **dict.fromkeys(
        ["evtchn.ioctl_unknown_E7", "evtchn.ioctl_unknown_E99", "evtchn.ioctl_unknown_Z0"],
        ("-ENOTTY", "the kernel makes ENOTTY of a FUSE file's ENOSYS"),
    ),
    **dict.fromkeys(
        [f"evtchn.bind_virq_{n}" for n in (0, 2, 3, 8, 9, 16)],
        (">0 again=EEXIST notify=0", "on that machine its dom0 kernel and daemons had bound it, here nobody has"),
    ),
    "evtchn.sigio": ("setown=0 setfl=0 got=0 read=4[B]", "a FUSE file sends no SIGIO"),
}
"""Cases of the golden program that end in another way here, and why."""


def lines(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines())


def test_every_case_of_the_golden_program_ends_as_on_real_xen(inside: Inside, built: Built) -> None:
    """The program and its output on Xen 4.17.7 with Linux 6.1 lie in golden/."""
    program = built("golden/t_evtchn.c", strict=False)
    ours = lines(said(inside(0, program)))
    real = lines((HERE / "golden" / "evtchn.txt").read_text())
    expected = {**real, **{name: result for name, (result, _) in DIFFERENT.items()}}
    assert list(ours) == list(real)
    assert ours == expected


def peers(built: Built) -> Path:
    return built("evtchn_peers.c", "-lxenevtchn")


def test_a_server_and_a_client_in_two_domains(mnt: Xen, inside: Inside, built: Built) -> None:
    mnt.domain(1)
    mnt.domain(2)
    server = inside(1, peers(built), "server", "2", "2000")
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    client = inside(2, peers(built), "client", "1", port, "2000")
    assert said(client) == "2000 rounds\n"
    assert said(server) == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["many", "200"], "200 heard, 0 left\n"),
        (["timeout"], "nothing: 0\nclosed: 0\nunbound twice: Transport endpoint is not connected\n"),
        (["fork"], "of the child: 1\nof the parent: 1\n"),
        (["dup"], "heard: 1\nheard: 1\n"),
        (
            ["restrict", "1"],
            (
                "unbound: Permission denied\nvirq: Permission denied\nother: Permission denied\n"
                "no such port: Invalid argument\nagain: Permission denied\n"
            ),
        ),
    ],
)
def test_programs_on_libxenevtchn(mnt: Xen, inside: Inside, built: Built, words: list[str], expected: str) -> None:
    mnt.domain(1)
    assert said(inside(1, peers(built), *words)) == expected


def test_a_killed_client_leaves_its_servers_port_to_the_next(mnt: Xen, inside: Inside, built: Built) -> None:
    mnt.domain(1)
    mnt.domain(2)
    server = inside(1, peers(built), "server", "2", "100000")
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    for _ in range(3):
        client = inside(2, peers(built), "client", "1", port, "100000")
        assert client.poll() is None
        mnt.until_info(1, int(port), "state=interdomain")
        client.kill()
        client.communicate(timeout=60)
        mnt.until_info(1, int(port), "state=unbound")


def test_each_exception_is_one() -> None:
    real = lines((HERE / "golden" / "evtchn.txt").read_text())
    assert set(DIFFERENT) <= set(real)
    assert all(real[name] != result for name, (result, _) in DIFFERENT.items())
