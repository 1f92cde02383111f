"""Group R and bad keys against netback: rings and grants that are not what a guest says they are."""

from __future__ import annotations

import pytest

from tests.hostile.guest import OKAY, Guest, frame, guest, host, patient
from tests.hostile.peer import SECONDS
from tests.mounted.mount import until
from xenfs.abi.netif import TX
from xenfs.abi.xenbus import XenbusState as S

__all__ = ["guest", "host", "patient"]
pytestmark = pytest.mark.timeout(90)


@pytest.mark.parametrize("distance", [257, 1 << 31, -1])
def test_r1_r2_an_impossible_producer_stops_the_device_and_nothing_is_done(guest: Guest, distance: int) -> None:
    before = guest.stats().units_in
    guest.tx.raw.jump("req_prod", distance)
    guest.channels[0].notify()
    guest.until_stopped("req_prod")
    assert guest.stats().units_in == before
    guest.again()


def test_r4_a_full_ring_is_sent_whole(guest: Guest) -> None:
    guest.put(0, frame(b"full"))
    requests = [(guest.refs[0], 0, 0, number & 0xFFFF, 60) for number in range(256)]
    assert guest.send(*requests) == [(number, OKAY) for number in range(256)]


def test_r5_what_the_guest_scribbles_over_the_backends_words_changes_nothing(guest: Guest) -> None:
    guest.put(0, frame(b"scribbled"))
    guest.tx.raw.set("rsp_prod", 12345)
    guest.tx.raw.scribble(16, b"\xff" * 48)
    guest.tx.ring.push(guest.refs[0], 0, 0, 9, 60)
    guest.tx.publish()
    guest.channels[0].notify()
    until(lambda: guest.tx.raw.get("rsp_prod") == 1, SECONDS)
    assert guest.state() is S.Connected


def test_r6_a_guest_that_never_notifies_again_is_found_when_it_does(guest: Guest) -> None:
    guest.put(0, frame(b"silent"))
    guest.tx.raw.set("rsp_event", 1 << 30)  # never tells that it wants to hear
    for number in range(40):
        guest.tx.ring.push(guest.refs[0], 0, 0, number, 60)
        guest.tx.publish()
    guest.channels[0].notify()
    until(lambda: guest.tx.raw.get("rsp_prod") == 40, SECONDS)
    guest.tx.ring.push(guest.refs[0], 0, 0, 41, 60)
    guest.tx.publish()
    guest.channels[0].notify()
    assert [number for number, _ in guest.answers(guest.tx, 41, 0)] == [*range(40), 41]


def test_r10_ids_are_echoed_whatever_they_are(guest: Guest) -> None:
    guest.put(0, frame(b"ids"))
    ids = [0xFFFF, 0xFFFF, 0, 0x8000, 0xFFFF]
    assert guest.send(*[(guest.refs[0], 0, 0, number, 60) for number in ids]) == [(number, OKAY) for number in ids]


def test_r11_a_guest_that_takes_no_answers_is_not_served_further_than_its_ring(guest: Guest) -> None:
    guest.put(0, frame(b"deaf"))
    for _ in range(256):
        guest.tx.ring.push(guest.refs[0], 0, 0, 1, 60)
    guest.tx.publish()
    guest.channels[0].notify()
    until(lambda: guest.tx.raw.get("rsp_prod") == 256, SECONDS)
    guest.tx.raw.jump("req_prod", 256)  # the answers have not been taken, but for the ring these are its requests again
    guest.channels[0].notify()
    until(lambda: guest.tx.raw.get("rsp_prod") == 512 or guest.state() is not S.Connected, SECONDS)
    assert guest.back.poll() is None


@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x5A])
def test_r12_a_ring_page_of_rubbish_at_connect_is_refused_or_served(patient: Guest, byte: int) -> None:
    keys = patient.prepare()
    patient.tx.raw.fill(byte)
    patient.rx.raw.fill(byte)
    patient.publish(dict(keys))
    patient.channels[0].notify()
    patient.until_state(S.Connected, S.Closing, S.Closed)
    patient.again()


def test_r14_what_pads_a_response_carries_nothing(guest: Guest) -> None:
    guest.put(0, frame(b"pad"))
    assert guest.send((guest.refs[0], 0, 0, 1, 60)) == [(1, OKAY)]
    slot = guest.tx.raw.slot(0)
    assert slot[4:] == TX.request.pack(guest.refs[0], 0, 0, 1, 60)[4:], "behind it is what the guest itself had written"


def test_r15_a_ring_page_that_its_owner_revokes_stays_until_the_backend_lets_go(guest: Guest) -> None:
    (ref,) = [int(guest.store.read(f"{guest.path}/tx-ring-ref"))]
    assert guest.memory.end_access([ref]) == [ref]
    guest.put(0, frame(b"revoked"))
    assert guest.send((guest.refs[0], 0, 0, 1, 60)) == [(1, OKAY)]


@pytest.mark.parametrize(
    "key", ["tx-ring-ref", "rx-ring-ref", "event-channel-tx", "multi-queue-num-queues", "ctrl-ring-ref"]
)
@pytest.mark.parametrize("value", ["", "-1", "1e9", "0x10", "9" * 1900, "\xff", "1000000", "0"])
def test_x18_x19_a_bad_key_is_named_and_a_good_one_connects_afterwards(patient: Guest, key: str, value: str) -> None:
    keys: dict[str, str | bytes] = dict(patient.prepare())
    keys[key] = value.encode("latin-1")
    patient.publish(keys)
    if value == "0" and key in ("ctrl-ring-ref", "event-channel-tx"):
        patient.until_state(S.Closing, S.Closed, S.Connected)
    else:
        patient.until_state(S.Closing, S.Closed)
        assert patient.error()
    if key.startswith("multi"):
        patient.store.rm(f"{patient.path}/{key}")
    patient.again()


@pytest.mark.parametrize("field", [0, 4, 6, 8, 10], ids=["gref", "offset", "flags", "id", "size"])
def test_r7_a_request_that_changes_while_it_is_looked_at_is_one_or_the_other(guest: Guest, field: int) -> None:
    guest.put(0, frame(b"either"))
    bad = {0: b"\xff\xff\xff\x7f", 4: b"\x10\x00", 6: b"\x00\x00", 8: b"\x09\x00", 10: b"\x05\x00"}[field]
    good = TX.request.pack(guest.refs[0], 0, 0, 1, 60)[field : field + len(bad)]
    for _ in range(10):
        for number in range(256):
            guest.tx.raw.scribble_slot(number, TX.request.pack(guest.refs[0], 0, 0, 1, 60))
        for _ in range(256):
            guest.tx.ring.push(guest.refs[0], 0, 0, 1, 60)
        with guest.tx.raw.flipping(128, field, [bad, good]):
            guest.tx.publish()
            guest.channels[0].notify()
            found = guest.answers(guest.tx, 256, 0)
        assert len(found) == 256
        if field:  # else it is the answer that the guest has written over
            assert {number for number, _ in found} <= {1, 9}
    assert guest.state() is S.Connected
