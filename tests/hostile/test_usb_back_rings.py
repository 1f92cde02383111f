"""Group R and bad keys against usbback: rings and pages that are not what a guest says they are."""

from __future__ import annotations

import pytest
from xenusb.descriptors import Setup

from tests.hostile.peer import SECONDS
from tests.hostile.usb_guest import BULK, EMPTY, LOOPBACK, UsbGuest, guest, host, patient
from tests.mounted.mount import until
from xenfs.abi.usbif import SEGMENT, URB, Pipe, PipeType, Status
from xenfs.abi.xenbus import XenbusState as S

__all__ = ["guest", "host", "patient"]
pytestmark = pytest.mark.timeout(120)
DESCRIPTOR = Setup(0x80, 6, 0x100, 0, 18)


@pytest.mark.parametrize("distance", [17, 1 << 31, -1])
def test_r1_r2_an_impossible_producer_stops_the_device(guest: UsbGuest, distance: int) -> None:
    guest.ring.raw.jump("req_prod", distance)
    guest.channel.notify()
    guest.until_stopped("req_prod")


@pytest.mark.parametrize("distance", [513, 1 << 31, -511])
def test_r1_the_ring_of_plugs_as_well(guest: UsbGuest, distance: int) -> None:
    guest.plugs.raw.jump("req_prod", distance)
    guest.plug(LOOPBACK, "")
    guest.until_stopped("req_prod")


def test_r3_r4_a_full_ring_across_the_end_of_the_numbers(guest: UsbGuest) -> None:
    for _ in range(20):
        requests = [guest.setup(LOOPBACK, DESCRIPTOR, number=number) for number in range(16)]
        assert sorted(guest.ask(*requests)) == [(number, 0, 0, 18, 0) for number in range(16)]


def test_r5_what_the_guest_scribbles_over_the_backends_words_changes_nothing(guest: UsbGuest) -> None:
    before = guest.ring.raw.get("req_prod")
    guest.ring.raw.set("rsp_prod", 12345)
    guest.ring.raw.scribble(16, b"\xff" * 48)
    guest.ring.ring.push(*guest.setup(LOOPBACK, DESCRIPTOR))
    guest.ring.publish()
    guest.channel.notify()
    until(lambda: guest.ring.raw.get("rsp_prod") == before + 1, SECONDS)
    assert guest.state() is S.Connected


def test_r7_r8_a_request_that_changes_while_it_is_looked_at_is_one_or_the_other(guest: UsbGuest) -> None:
    good = guest.urb(LOOPBACK, PipeType.bulk, endpoint=BULK, size=8, number=4)
    raw = b"".join((good[0].to_bytes(2, "little"), good[1].to_bytes(2, "little"), good[2].to_bytes(4, "little")))
    for offset, values in (
        (2, [raw[2:4], b"\xff\xff"]),
        (4, [raw[4:8], Pipe(EMPTY, PipeType.bulk, False, LOOPBACK, BULK).emit().to_bytes(4, "little")]),
        (10, [(8).to_bytes(2, "little"), b"\xff\xff"]),
        (20, [SEGMENT.pack(guest.refs[0], 0, 8), SEGMENT.pack(0xFFFF_FFFF, 4095, 65535)]),
    ):
        for _ in range(60):
            index = guest.ring.raw.get("req_prod")
            guest.ring.ring.push(*good)
            with guest.ring.raw.flipping(index, offset, values) as flipper:
                flipper.wait(1)
                guest.ring.publish()
                guest.channel.notify()
                answers = guest.answers(1)
            assert answers[0][0] == 4
            if offset != 4:  # where the answer has its status
                assert answers[0][2] in (0, int(Status.inval))
    assert guest.state() is S.Connected


def test_r9_bits_that_mean_nothing(guest: UsbGuest) -> None:
    entry = guest.setup(LOOPBACK, DESCRIPTOR, number=2)
    assert guest.ask((*entry[:2], entry[2] | 0x40 | 0x3FF8_0000, *entry[3:])) == [(2, 0, 0, 18, 0)]


def test_r10_ids_are_echoed_whatever_they_are(guest: UsbGuest) -> None:
    ids = [0, 65535, 7, 7, 32768]
    requests = [guest.setup(LOOPBACK, DESCRIPTOR, number=number) for number in ids]
    assert [answer[0] for answer in guest.ask(*requests)] == ids


def test_r11_answers_that_nobody_takes(guest: UsbGuest) -> None:
    guest.ask(*[guest.setup(LOOPBACK, DESCRIPTOR, number=number) for number in range(16)])
    for number in range(16):
        guest.ring.ring.push(*guest.setup(LOOPBACK, DESCRIPTOR, number=number))
    guest.ring.publish()
    guest.channel.notify()
    until(lambda: guest.ring.raw.get("rsp_prod") == guest.ring.raw.get("req_prod"), SECONDS)
    guest.ring.raw.jump("req_prod", 1)
    guest.channel.notify()
    until(lambda: guest.state() is not S.Connected or guest.ring.raw.get("rsp_prod") > 0, SECONDS)


@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x5A])
def test_r12_r13_ring_pages_of_rubbish_are_refused_or_served(patient: UsbGuest, byte: int) -> None:
    keys = patient.prepare()
    patient.ring.raw.fill(byte)
    patient.plugs.raw.fill(byte)
    patient.publish(keys, S.Connected)
    until(lambda: patient.state() in (S.Connected, S.Closing, S.Closed), SECONDS)
    patient.channel.notify()
    patient.close()
    patient.set_state(S.Initialising)
    patient.until_state(S.InitWait)
    patient.connect().settle().alive()


def test_r14_the_rest_of_a_slot_is_what_the_guest_has_put_there(guest: UsbGuest) -> None:
    index = guest.ring.raw.get("rsp_prod")
    request = guest.setup(LOOPBACK, DESCRIPTOR)
    assert guest.ask(request)
    assert guest.ring.raw.slot(index)[16:] == URB.request.pack(*request)[16:]


def test_r15_pages_that_their_owner_revokes_stay_until_the_backend_lets_go(guest: UsbGuest) -> None:
    guest.memory.end_access(guest.ring_refs, defer=True)
    guest.alive()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("urb-ring-ref", "x"), ("urb-ring-ref", "99999999999"), ("urb-ring-ref", "7"), ("conn-ring-ref", ""),
        ("conn-ring-ref", "-1"), ("event-channel", "0"), ("event-channel", "9999"), ("feature-persistent", "2"),
    ],
)  # fmt: skip
def test_x18_x19_a_bad_key_is_named_and_a_good_one_connects_afterwards(patient: UsbGuest, key: str, value: str) -> None:
    patient.publish({**patient.prepare(), key: value}, S.Connected)
    patient.until_stopped(key if value not in ("7", "9999") else "")
    patient.close()
    patient.set_state(S.Initialising)
    patient.until_state(S.InitWait)
    patient.connect().settle().alive()


def test_a_guest_without_persistent_pages_is_served_as_well(patient: UsbGuest) -> None:
    patient.connect(feature_persistent="0").settle().alive()
    guest = patient
    guest.put(b"hello")
    assert guest.ask(guest.urb(LOOPBACK, PipeType.bulk, endpoint=BULK, size=5)) == [(1, 0, 0, 5, 0)]
    guest.put(bytes(5))
    assert guest.ask(guest.urb(LOOPBACK, PipeType.bulk, endpoint=BULK, inward=True, size=5)) == [(1, 0, 0, 5, 0)]
    assert guest.page(5) == b"hello"
    assert guest.memory.end_access(guest.refs) == [], "nothing stays mapped"
