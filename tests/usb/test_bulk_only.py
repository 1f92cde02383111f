"""Commands, data and status of a stick: in any pieces and any order, and what is none of them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from xenusb.bulk_only import FAILED, PASSED, PHASE_ERROR, Command, Outcome

from tests.usb.mass import IN, INQUIRY, NEW, OUT, READ_ERROR, READY, SENSE, SYNCHRONIZE, Mass, Ran, read, write
from tests.usb.port import got
from xenfs.abi.usbif import Status


@pytest.mark.parametrize("piece", [512, 1024, 1536, 4096])
@pytest.mark.parametrize("cuts", [(), (1,), (511, 1), (100, 0, 300)])
def test_data_comes_in_any_pieces(mass: Mass, piece: int, cuts: Sequence[int]) -> None:
    assert mass.run(write(0, 8), sent=NEW, piece=piece, cuts=cuts) == Ran(PASSED)
    assert mass.path.read_bytes() == NEW
    assert mass.run(read(0, 8), 4096, piece=piece, cuts=cuts) == Ran(PASSED, 0, NEW)


def test_an_answer_comes_in_any_pieces(mass: Mass) -> None:
    whole = mass.run(INQUIRY, 36)
    assert (whole.verdict, whole.data[8:13]) == (PASSED, b"xenfs")
    assert mass.run(INQUIRY, 36, cuts=(1, 2)) == whole
    assert mass.run(INQUIRY, 36, piece=20) == whole


CASES: dict[str, tuple[bytes, int, bytes | None, int, int, int]] = {
    # the command, what the host expects or sends; the verdict, the residue, and how many bytes are moved
    "1 Hn = Dn": (READY, 0, None, PASSED, 0, 0),
    "2 Hn < Di": (read(0, 1), 0, None, PHASE_ERROR, 0, 0),
    "2 Hn < Di, an answer": (INQUIRY, 0, None, PHASE_ERROR, 0, 0),
    "3 Hn < Do": (write(0, 1), 0, None, PHASE_ERROR, 0, 0),
    "4 Hi > Dn": (READY, 512, None, PASSED, 512, 0),
    "4 Hi > Dn, later": (SYNCHRONIZE, 512, None, PASSED, 512, 0),
    "4 Hi > Dn, no blocks": (read(0, 0), 512, None, PASSED, 512, 0),
    "5 Hi > Di": (read(0, 1), 1024, None, PASSED, 512, 512),
    "5 Hi > Di, an answer": (INQUIRY, 64, None, PASSED, 28, 36),
    "6 Hi = Di": (read(0, 2), 1024, None, PASSED, 0, 1024),
    "7 Hi < Di": (read(0, 2), 512, None, PHASE_ERROR, 512, 0),
    "8 Hi <> Do": (write(0, 1), 512, None, PHASE_ERROR, 512, 0),
    "9 Ho > Dn": (READY, 0, NEW[:512], PASSED, 512, 0),
    "9 Ho > Dn, later": (SYNCHRONIZE, 0, NEW[:512], PASSED, 512, 0),
    "9 Ho > Dn, no blocks": (write(0, 0), 0, NEW[:512], PASSED, 512, 0),
    "10 Ho <> Di": (read(0, 1), 0, NEW[:512], PHASE_ERROR, 512, 0),
    "10 Ho <> Di, an answer": (INQUIRY, 0, NEW[:36], PHASE_ERROR, 36, 0),
    "11 Ho > Do": (write(0, 1), 0, NEW[:1024], PASSED, 512, 512),
    "12 Ho = Do": (write(0, 2), 0, NEW[:1024], PASSED, 0, 1024),
    "13 Ho < Do": (write(0, 2), 0, NEW[:512], PHASE_ERROR, 512, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_thirteen_cases(mass: Mass, case: str) -> None:
    words, size, sent, verdict, residue, moved = CASES[case]
    before = mass.path.read_bytes()
    ran = mass.run(words, size, sent)
    assert (ran.verdict, ran.residue, len(ran.data)) == (verdict, residue, 0 if sent else moved)
    if words[0] == 0x28:
        assert ran.data == before[:moved]
    assert mass.path.read_bytes() == (NEW[:moved] + before[moved:] if sent else before)
    mass.recover()
    mass.works()


@pytest.mark.parametrize("case", CASES)
def test_the_thirteen_cases_in_small_transfers(mass: Mass, case: str) -> None:
    words, size, sent, verdict, residue, moved = CASES[case]
    ran = mass.run(words, size, sent, piece=512)
    assert (ran.verdict, ran.residue, len(ran.data)) == (verdict, residue, 0 if sent else moved)
    mass.works()


def test_a_host_that_sends_less_than_it_said_has_it_written(mass: Mass) -> None:
    before = mass.path.read_bytes()
    mass.command(write(0, 4), 2048, inward=False)
    assert mass.port.bulk(OUT, NEW[:512]).status is Status.ok
    assert mass.port.bulk(OUT, NEW[512:812]).status is Status.ok
    assert (outcome := mass.status()).residue == 2048 - 812
    assert outcome.status == PASSED
    assert mass.path.read_bytes() == NEW[:812] + before[812:]


@pytest.mark.parametrize("size", [0, 512])
def test_a_packet_of_nothing_ends_what_the_host_sends(mass: Mass, size: int) -> None:
    before = mass.path.read_bytes()
    mass.command(write(0, 4), 2048, inward=False)
    status = mass.port.bulk(IN, 13)
    if size:
        mass.port.bulk(OUT, NEW[:size])
    assert not status.over
    assert mass.port.bulk(OUT, b"").status is Status.ok
    assert Outcome.parse(got(status)) == Outcome(mass.tag, 2048 - size, PASSED)
    assert mass.path.read_bytes() == NEW[:size] + before[size:]
    mass.works()


@pytest.mark.parametrize(
    ("words", "size"),
    [(INQUIRY, 20), (SENSE, 4), (b"\x25".ljust(10, b"\0"), 7)],
    ids=["inquiry", "sense", "capacity"],
)
def test_an_answer_that_is_longer_than_the_host_expects_is_cut(mass: Mass, words: bytes, size: int) -> None:
    whole = mass.run(words, 255)
    assert (whole.verdict, len(whole.data) > size) == (PASSED, True)
    assert mass.run(words, size) == Ran(PHASE_ERROR, 0, whole.data[:size])
    mass.recover()
    mass.works()


def test_less_than_the_host_expects_is_a_short_packet(mass: Mass) -> None:
    mass.command(INQUIRY, 64)
    transfer = mass.port.bulk(IN, 64, whole=True)
    assert (transfer.status, transfer.actual) == (Status.ioerror, 36), "it has said what it thinks of that"
    assert mass.status().residue == 28


@pytest.mark.parametrize("sent", [None, NEW[:512]])
def test_a_failed_command_stalls_the_data_that_the_host_waits_with(mass: Mass, sent: bytes | None) -> None:
    words = read(8, 1) if sent is None else write(8, 1)
    mass.command(words, 512, inward=sent is None)
    transfer = mass.port.bulk(OUT if sent else IN, sent or 512)
    assert transfer.status is Status.stall
    assert mass.port.halted(transfer.address)
    mass.port.clear(transfer.address)
    assert mass.status() == Outcome(mass.tag, 512, FAILED)


def test_command_data_and_status_asked_for_at_once(mass: Mass) -> None:
    port, data = mass.port, mass.path.read_bytes()
    command = mass.command(read(1, 2), 1024)
    first, second, status = port.bulk(IN, 512), port.bulk(IN, 512), port.bulk(IN, 13)
    assert port.ended[-4:] == [command, first, second, status]
    assert got(first) + got(second) == data[512:1536]
    assert Outcome.parse(got(status)) == Outcome(mass.tag, 0, PASSED)


def test_whoever_waits_for_data_and_status_before_the_command_gets_them(mass: Mass) -> None:
    port = mass.port
    data, status = port.bulk(IN, 512), port.bulk(IN, 13)
    assert not data.over
    command = mass.command(read(1, 1), 512)
    assert port.ended[-3:] == [command, data, status]
    assert got(data) == mass.path.read_bytes()[512:1024]


def test_several_commands_queued_ahead(mass: Mass) -> None:
    port, before = mass.port, mass.path.read_bytes()
    inward = [port.bulk(IN, size) for size in (512, 13, 13, 1024, 13, 36, 13, 13)]
    sent = [
        mass.command(read(0, 1), 512),
        mass.command(write(0, 2), 1024, inward=False),
        port.bulk(OUT, NEW[:512]),
        port.bulk(OUT, NEW[512:1024]),
        mass.command(read(0, 2), 1024),
        mass.command(INQUIRY, 36),
        mass.command(READY),
    ]
    assert all(transfer.status is Status.ok and transfer.over for transfer in (*inward, *sent))
    assert got(inward[0]) == before[:512]
    assert got(inward[3]) == NEW[:1024], "in their order"
    assert [Outcome.parse(got(inward[at])) for at in (1, 2, 4, 6, 7)] == [
        Outcome(tag, 0, PASSED) for tag in range(1, 6)
    ]
    assert [transfer for transfer in port.ended if transfer in inward] == inward


def test_commands_wait_for_the_status_of_the_one_before(mass: Mass) -> None:
    port = mass.port
    commands = [mass.command(READY) for _ in range(7)]
    for number in range(7):
        assert [command.over for command in commands] == [True] * (number + 1) + [False] * (6 - number)
        assert Outcome.parse(got(port.bulk(IN, 13))) == Outcome(number + 1, 0, PASSED)


def test_data_for_the_stick_waits_behind_a_command_that_takes_long(mass: Mass) -> None:
    port = mass.port
    mass.command(SYNCHRONIZE)
    command, data = mass.command(write(0, 1), 512, inward=False), port.bulk(OUT, NEW[:512])
    first, second = port.bulk(IN, 13), port.bulk(IN, 13)
    assert not any(transfer.over for transfer in (command, data, first, second))
    port.wait(second)
    assert [Outcome.parse(got(one)) for one in (first, second)] == [Outcome(1, 0, PASSED), Outcome(2, 0, PASSED)]
    assert mass.path.read_bytes()[:512] == NEW[:512]


def test_a_status_that_is_taken_back_is_there_for_the_next_who_asks(mass: Mass) -> None:
    port = mass.port
    mass.command(SYNCHRONIZE)
    status = port.bulk(IN, 13)
    mass.stick.cancel(status)
    assert status.status is Status.shutdown
    assert mass.status() == Outcome(mass.tag, 0, PASSED)
    mass.works()


def test_data_that_is_taken_back_is_there_for_the_next_who_asks(mass: Mass) -> None:
    data = mass.port.bulk(IN, 512)
    mass.stick.cancel(data)
    mass.command(read(1, 1), 512)
    assert got(mass.port.bulk(IN, 512)) == mass.path.read_bytes()[512:1024]
    assert mass.status().status == PASSED


GOOD = Command(7, 512, True, 0, read(0, 1)).emit()
BAD = {
    "another signature": b"USBS" + GOOD[4:],
    "too short": GOOD[:30],
    "too long": GOOD + b"\0",
    "nothing": b"",
    "no command": GOOD[:14] + b"\0" + GOOD[15:],
    "too much of a command": GOOD[:14] + b"\x11" + GOOD[15:],
    "another unit": GOOD[:13] + b"\1" + GOOD[14:],
    "no unit": GOOD[:13] + b"\xff" + GOOD[14:],
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_command_is_mended_by_a_reset_only(mass: Mass, name: str) -> None:
    port = mass.port
    status = port.bulk(IN, 13)
    assert port.bulk(OUT, BAD[name]).status is Status.stall
    assert status.status is Status.stall
    assert port.halted(0x81)
    assert port.halted(0x02)
    for _ in range(2):
        port.clear(0x81)
        port.clear(0x02)
        assert mass.command(READY).status is Status.stall
        assert port.bulk(IN, 13).status is Status.stall
    mass.recover()
    mass.works()


def test_data_that_fails_midway_stalls_all_that_waits_and_the_status_comes_behind_the_halt(mass: Mass) -> None:
    port = mass.port
    data, status = [port.bulk(IN, 1024) for _ in range(4)], port.bulk(IN, 13)
    port.then[data[0]] = lambda: os.truncate(mass.path, 1024)
    command = mass.command(read(0, 8), 4096)
    assert [one.status for one in (*data, status)] == [Status.ok, *[Status.stall] * 4]
    assert port.ended[-6:] == [command, *data, status]
    assert port.halted(0x81)
    port.clear(0x81)
    assert Outcome.parse(got(port.bulk(IN, 13))) == Outcome(mass.tag, 3072, FAILED)
    assert mass.sense() == READ_ERROR
    mass.works()
