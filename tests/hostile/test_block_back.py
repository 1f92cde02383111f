"""Groups B and R against blkback: a guest that asks nonsense, and what becomes of the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from xenblk.loopdev import CONTROL, LoopDevice

from tests.hostile.disk_guest import ERROR, OKAY, PAGES, SECTORS, SIZE, UNSUPPORTED, DiskGuest, DiskHost
from tests.hostile.peer import SECONDS
from tests.mounted.mount import until
from xenfs.abi.blkif import SEGMENT, X86_64, Discard, Indirect, Op, Segment
from xenfs.abi.xen import PAGE_SIZE
from xenfs.abi.xenbus import XenbusState as S
from xenfs.testing.peers import Flipper, MockFront
from xenfs.xenbus.grants import MOST, MOST_TABLES

CYCLES = int(os.environ.get("XENFS_CYCLES", "4"))
"""XENFS_CYCLES=10000 for what XSA-350 wants; the backend takes its time, up to 5 s, for who comes again and again."""
pytestmark = pytest.mark.timeout(90 + 6 * CYCLES)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiskHost]:
    with ExitStack() as held:
        made = DiskHost(tmp_path_factory.mktemp("host"), held)
        made.fill()
        yield made
        until(lambda: not made.held(), SECONDS)
        assert made.mount.rest()


@pytest.fixture
def patient(host: DiskHost) -> Iterator[DiskGuest]:
    """A guest whose backend offers."""
    host.fill()
    with host.guest() as guest:
        yield guest


@pytest.fixture
def guest(patient: DiskGuest) -> DiskGuest:
    """Connected."""
    return patient.connect()


def refused(guest: DiskGuest, request: tuple[object, ...], op: int, status: int = ERROR) -> None:
    """It is answered with an error, nothing on the disk changes, and the ring lives."""
    before = guest.host.image.read_bytes()
    assert guest.ask(request) == [(request[3], op, status)]
    assert guest.host.image.read_bytes() == before
    assert guest.ask(guest.read(5, 1)) == [(0, int(Op.read), OKAY)]


@pytest.mark.parametrize("op", [Op.read, Op.write])
@pytest.mark.parametrize("count", [0, 12, 255])
def test_b1_as_many_segments_as_do_not_fit(guest: DiskGuest, op: Op, count: int) -> None:
    refused(guest, guest.raw(op, count, 0, [(guest.refs[0], 0, 7)] * 11, 9), int(op))


@pytest.mark.parametrize(("first", "last"), [(1, 0), (0, 8), (7, 255), (255, 255), (8, 8)])
@pytest.mark.parametrize("op", [Op.read, Op.write])
def test_b2_sectors_that_are_not_in_a_page(guest: DiskGuest, op: Op, first: int, last: int) -> None:
    refused(guest, guest.raw(op, 1, 0, [(guest.refs[0], first, last)], 9), int(op))


@pytest.mark.parametrize("sector", [SECTORS, SECTORS - 7, (1 << 64) - 1, (1 << 64) - 8, (1 << 63), (1 << 55)])
@pytest.mark.parametrize("op", [Op.read, Op.write, Op.write_barrier, Op.discard])
def test_b3_sectors_that_the_disk_has_not(guest: DiskGuest, op: Op, sector: int) -> None:
    if op is Op.discard:
        refused(guest, Discard(9, sector, 8).emit(), int(op))
        refused(guest, Discard(9, 8, (1 << 64) - 8).emit(), int(op))
    else:
        refused(guest, guest.request(op, sector, [Segment(guest.refs[0])], 9), int(op))


def test_b4_a_read_only_disk_cannot_be_written_by_any_operation(host: DiskHost) -> None:
    with host.guest("r") as guest:
        guest.connect()
        part = [Segment(guest.refs[0])]
        for op in (Op.write, Op.write_barrier):
            refused(guest, guest.request(op, 8, part, 9), int(op))
        refused(guest, Discard(9, 8, 8).emit(), int(Op.discard))
        table, _, (ref,) = guest.share(1)
        SEGMENT.pack_into(table, 0, guest.refs[0], 0, 7)
        refused(guest, Indirect(int(Op.write), 9, 8, 1, (ref,)).emit(), int(Op.write))
        assert guest.ask(guest.request(Op.flush_diskcache, 0, [], 9)) == [(9, int(Op.flush_diskcache), OKAY)]


def test_b6_indirect_requests_that_are_none(guest: DiskGuest) -> None:
    table, _, (ref,) = guest.share(1)
    for place in range(256):
        SEGMENT.pack_into(table, place * 8, guest.refs[place % PAGES], 0, 0)
    read = int(Op.read)
    good = Indirect(read, 9, 0, 256, (ref,)).emit()
    assert guest.ask(good) == [(9, read, OKAY)], "the response has the operation within"
    assert guest.page(3, 4) == (256 - PAGES + 3).to_bytes(4, "little"), "the last of those that were read into it"
    op, inner, count, number, sector, rest = good
    for wrong, said in (
        ((op, inner, 257, number, sector, rest), read),
        ((op, inner, 0, number, sector, rest), read),
        ((op, inner, 65535, number, sector, rest), read),
        ((op, int(Op.indirect), count, number, sector, rest), int(Op.indirect)),
        ((op, int(Op.discard), count, number, sector, rest), int(Op.discard)),
        ((op, 200, count, number, sector, rest), 200),
        ((op, inner, count, number, SECTORS - 255, rest), read),
        (Indirect(read, 9, 0, 8, (0xFFFF_FFF0,)).emit(), read),
        (Indirect(read, 9, 0, 8, (0,)).emit(), read),
    ):
        refused(guest, wrong, said)
    SEGMENT.pack_into(table, 8, 0xFFFF_FFF0, 0, 0)
    refused(guest, good, read)
    SEGMENT.pack_into(table, 8, guest.refs[0], 5, 2)
    refused(guest, good, read)


def test_b6_a_table_that_changes_while_it_is_looked_at_is_one_or_the_other(guest: DiskGuest) -> None:
    table, _, (ref,) = guest.share(1)
    SEGMENT.pack_into(table, 0, guest.refs[0], 0, 7)
    values = [SEGMENT.pack(guest.refs[0], 0, 7), SEGMENT.pack(guest.refs[0], 0, 255)]
    statuses = set()
    with Flipper(table[:8], values):
        for _ in range(300):
            ((_, _, status),) = guest.ask(Indirect(int(Op.read), 9, 0, 1, (ref,)).emit())
            statuses.add(status)
    assert statuses <= {OKAY, ERROR}
    assert guest.page(1) == bytes(PAGE_SIZE), "no other page is touched"


def test_b7_one_page_in_all_segments_and_writes_that_overlap(guest: DiskGuest) -> None:
    before = guest.host.fill()
    assert guest.ask(guest.request(Op.read, 0, [Segment(guest.refs[2])] * 11, 1)) == [(1, int(Op.read), OKAY)]
    assert guest.page(2) == before[10 * PAGE_SIZE : 11 * PAGE_SIZE]
    guest.put(3, b"\x33" * PAGE_SIZE)
    guest.put(4, b"\x44" * PAGE_SIZE)
    requests = [guest.request(Op.write, 80 + n % 2, [Segment(guest.refs[3 + n % 2], 0, 6)], n) for n in range(20)]
    assert sorted(guest.ask(*requests)) == [(n, int(Op.write), OKAY) for n in range(20)]
    after = guest.host.image.read_bytes()
    assert after[: 80 * 512] == before[: 80 * 512]
    assert after[88 * 512 :] == before[88 * 512 :]
    assert set(after[81 * 512 : 87 * 512]) <= {0x33, 0x44}


def test_b9_sectors_of_4096_bytes_in_units_of_512(host: DiskHost) -> None:
    if os.geteuid() != 0 or not Path(CONTROL).exists():
        pytest.skip("loop devices need root")
    device = LoopDevice(str(host.image), sector_size=4096, readonly=False)
    try:
        with host.guest(target=device.path) as guest:
            guest.connect()
            whole = [Segment(guest.refs[0])]
            assert guest.ask(guest.request(Op.read, 8, whole, 9)) == [(9, int(Op.read), OKAY)]
            for request in (guest.request(Op.read, 4, whole, 9), guest.read(8, 4, 9)):
                assert guest.ask(request) == [(9, int(Op.read), ERROR)]
    finally:
        device.close()


def test_b8_an_operation_that_is_not_known_is_answered_as_such(guest: DiskGuest) -> None:
    for op in (4, 7, 100, 255):
        refused(guest, guest.raw(op, 1, 0, [(guest.refs[0], 0, 7)], 9), op, UNSUPPORTED)


def test_b5_a_page_that_is_not_granted_or_not_to_be_written(guest: DiskGuest) -> None:
    _, _, (readonly,) = guest.share(1, readonly=True)
    refused(guest, guest.request(Op.read, 0, [Segment(readonly)], 9), int(Op.read))
    assert guest.ask(guest.request(Op.write, 0, [Segment(readonly)], 9)) == [(9, int(Op.write), OKAY)]
    for ref in (0, 7, 0xFFFF_FFFF):
        refused(guest, guest.request(Op.read, 0, [Segment(ref)], 9), int(Op.read))
        refused(guest, guest.request(Op.read, 0, [Segment(guest.refs[0]), Segment(ref)], 9), int(Op.read))


def test_b11_connecting_again_and_again_leaves_nothing(host: DiskHost) -> None:
    with host.guest() as guest:

        def counts() -> tuple[int, int, int]:
            proc = Path(f"/proc/{guest.back.pid}")
            maps = len(proc.joinpath("maps").read_text().splitlines())
            return len(list(proc.joinpath("fd").iterdir())), len(list(proc.joinpath("task").iterdir())), maps

        def once() -> None:
            guest.connect()
            guest.ask(guest.read(0, 8), guest.request(Op.flush_diskcache, 0, [], 1))
            guest.close()
            guest.set_state(S.Initialising)
            guest.until_state(S.InitWait)

        for _ in range(3):
            once()
        before = counts()
        for _ in range(CYCLES):
            host.mount.arm(600)
            once()
        descriptors, threads, maps = counts()
        assert (descriptors, threads) == before[:2]
        assert maps <= before[2] + 4


def test_b12_persistent_grants_are_kept_up_to_a_limit(host: DiskHost) -> None:
    count = 2400
    with host.guest(frames=4096) as guest:
        guest.connect()
        _, _, refs = guest.share(count)
        for at in range(0, count, 8):
            parts = [Segment(ref, 0, 0) for ref in refs[at : at + 8]]
            assert guest.ask(guest.request(Op.read, 0, parts, 9)) == [(9, int(Op.read), OKAY)]
        mapped = int(Path(host.point, "hypervisor/frames").read_text().splitlines()[1].split()[4])
        assert MOST // 2 < mapped <= MOST + MOST_TABLES + 8
        oldest, newest = refs[count - 8 * (mapped // 8) : count - 8 * (mapped // 8) + 1], guest.share(4)[2]
        both = [Segment(ref, 0, 0) for ref in [*oldest, *newest]]
        assert guest.ask(guest.request(Op.read, 0, both, 9)) == [(9, int(Op.read), OKAY)], "old pages and new ones"
        assert guest.ask(guest.request(Op.read, 0, [Segment(refs[0])], 9)) == [(9, int(Op.read), OKAY)]


def test_b13_an_image_that_becomes_shorter_gives_errors_and_the_ring_lives(guest: DiskGuest) -> None:
    os.truncate(guest.host.image, SIZE // 2)
    try:
        assert guest.ask(guest.read(SECTORS - 8, 8, 9)) == [(9, int(Op.read), ERROR)]
        assert guest.ask(guest.read(5, 1)) == [(0, int(Op.read), OKAY)]
    finally:
        guest.host.fill()
    until(lambda: guest.host.root.store.read(f"{guest.device.backend_path}/sectors") == str(SECTORS).encode(), SECONDS)


def test_discards_make_zeros(guest: DiskGuest) -> None:
    before = guest.host.fill()
    assert guest.ask(Discard(9, 16, 16).emit()) == [(9, int(Op.discard), OKAY)]
    after = guest.host.image.read_bytes()
    assert after == before[: 16 * 512] + bytes(16 * 512) + before[32 * 512 :]


def test_a_barrier_has_what_was_before_it_behind_it(guest: DiskGuest) -> None:
    guest.put(0, b"\x11" * PAGE_SIZE)
    guest.put(1, b"\x22" * PAGE_SIZE)
    requests = [guest.request(Op.write, 8 * n, [Segment(guest.refs[0])], n) for n in range(8)]
    requests.append(guest.request(Op.write_barrier, 0, [Segment(guest.refs[1])], 8))
    requests.append(guest.request(Op.write, 8, [Segment(guest.refs[1])], 9))
    answers = guest.ask(*requests)
    assert [number for number, _, _ in answers].index(8) == 8, "after the eight, and before the last"
    assert guest.host.image.read_bytes()[: 2 * PAGE_SIZE] == b"\x22" * 2 * PAGE_SIZE


@pytest.mark.parametrize("protocol", ["x86_64-abi", "x86_32-abi", "arm-abi"])
@pytest.mark.parametrize("order", [0, 2, 4])
def test_both_layouts_and_rings_of_several_pages(patient: DiskGuest, protocol: str, order: int) -> None:
    patient.connect(protocol, order)
    count = min(patient.ring.ring.slots, PAGES)
    assert count == min(32 << order, PAGES)
    requests = [patient.read(number, 1, number, number) for number in range(count)]
    assert sorted(patient.ask(*requests)) == [(number, int(Op.read), OKAY) for number in range(count)]
    assert [int.from_bytes(patient.page(number, 4), "little") for number in range(count)] == list(range(count))


def test_each_queue_has_a_ring_of_its_own(patient: DiskGuest) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("as many queues are offered as there are processors")
    keys = patient.prepare()
    page, _, (ref,) = patient.share(1)
    second = patient.held.enter_context(MockFront(page, X86_64, request_id=3))
    port = patient.held.enter_context(patient.domain.events.alloc_unbound(0))
    ring_ref, channel = keys.pop("ring-ref"), keys.pop("event-channel")
    keys |= {"multi-queue-num-queues": "2", "queue-0/ring-ref": ring_ref, "queue-0/event-channel": channel}
    keys |= {"queue-1/ring-ref": str(ref), "queue-1/event-channel": str(port.port)}
    patient.publish(keys)
    patient.until_state(S.Connected)
    patient.set_state(S.Connected)
    assert patient.ask(patient.read(5, 1, 1, 0)) == [(1, int(Op.read), OKAY)]
    second.ring.push(*patient.read(6, 1, 2, 1))
    second.publish()
    port.notify()
    until(lambda: second.raw.get("rsp_prod") == 1, SECONDS)
    assert second.ring.take() == [(2, int(Op.read), OKAY)]
    assert [int.from_bytes(patient.page(number, 4), "little") for number in (0, 1)] == [5, 6]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ring-ref", "x"), ("ring-ref", "-1"), ("ring-ref", "99999999999"), ("ring-ref", ""), ("event-channel", "0"),
        ("event-channel", "4294967296"), ("event-channel", "9999"), ("protocol", "mips-abi"), ("ring-page-order", "5"),
        ("ring-page-order", "0x1"), ("multi-queue-num-queues", "0"), ("multi-queue-num-queues", "1000000"),
    ],
)  # fmt: skip
def test_x18_x19_a_bad_key_is_named_and_a_good_one_connects_afterwards(
    patient: DiskGuest, key: str, value: str
) -> None:
    patient.publish({**patient.prepare(), key: value})
    patient.until_stopped(key if value != "9999" else "")
    patient.again()


@pytest.mark.parametrize("distance", [33, 1 << 31, -1])
def test_r1_r2_an_impossible_producer_stops_the_device(guest: DiskGuest, distance: int) -> None:
    guest.ring.raw.jump("req_prod", distance)
    guest.channel.notify()
    guest.until_stopped("req_prod")
    guest.again()


def test_r5_what_the_guest_scribbles_over_the_backends_words_changes_nothing(guest: DiskGuest) -> None:
    guest.ring.raw.set("rsp_prod", 12345)
    guest.ring.raw.scribble(16, b"\xff" * 48)
    guest.ring.ring.push(*guest.read(5, 1))
    guest.ring.publish()
    guest.channel.notify()
    until(lambda: guest.ring.raw.get("rsp_prod") == 1, SECONDS)
    assert guest.state() is S.Connected


def test_r10_ids_are_echoed_whatever_they_are(guest: DiskGuest) -> None:
    ids = [0, (1 << 64) - 1, 7, 7, 1 << 63]
    assert [number for number, _, _ in guest.ask(*[guest.read(5, 1, number) for number in ids])] == ids


@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x5A])
def test_r12_a_ring_page_of_rubbish_is_refused_or_served(patient: DiskGuest, byte: int) -> None:
    keys = patient.prepare()
    patient.ring.raw.fill(byte)
    patient.publish(keys)
    until(lambda: patient.state() in (S.Connected, S.Closing, S.Closed), SECONDS)
    patient.again()


def test_r15_a_ring_page_that_its_owner_revokes_stays_until_the_backend_lets_go(guest: DiskGuest) -> None:
    guest.memory.end_access(guest.ring_refs, defer=True)
    assert guest.ask(guest.read(5, 1)) == [(0, int(Op.read), OKAY)]


@pytest.mark.parametrize("field", [0, 1, 16])
def test_r7_a_request_that_changes_while_it_is_looked_at_is_one_or_the_other(guest: DiskGuest, field: int) -> None:
    before = guest.host.fill()
    values = {0: [b"\x00", b"\xc8"], 1: [b"\x01", b"\xff"], 16: [b"\x00", b"\xff"]}[field]
    for index in range(200):
        with guest.ring.raw.flipping(index, field, values):
            ((_, _, status),) = guest.ask(guest.read(0, 8, 3))
        assert status in (OKAY, ERROR, UNSUPPORTED)
    assert guest.host.image.read_bytes() == before
