"""The commands of a stick, over a file: what each gives, moves or refuses, and what is sensed then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from xenblk.disk import FileDisk
from xenusb import scsi
from xenusb.scsi import Failed, Flush, Move, Scsi, Sense

from tests.usb.units import BLOCKS, TWO_TERABYTES, image, power_on, refused, sensed, told


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FileDisk]:
    with closing(FileDisk(str(image(tmp_path / "image")))) as disk:
        yield disk


@pytest.fixture
def unit(disk: FileDisk) -> Scsi:
    return power_on(disk)


@pytest.fixture
def protected(tmp_path: Path) -> Iterator[Scsi]:
    with closing(FileDisk(str(image(tmp_path / "protected")), readonly=True)) as disk:
        yield power_on(disk)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Scsi]:
    with closing(FileDisk(str(image(tmp_path / "empty", 0)))) as disk:
        yield power_on(disk)


def test_sense_byte_by_byte() -> None:
    assert scsi.GOOD.emit() == bytes.fromhex("70 00 00 00000000 0a 00000000 00 00 00 000000")
    assert Sense(5, 0x24, 3).emit() == bytes.fromhex("70 00 05 00000000 0a 00000000 24 03 00 000000")
    assert str(Failed(Sense(5, 0x24, 3))) == "sense 5/24/03"


# What a unit says of itself.


def test_a_unit_is_ready(unit: Scsi) -> None:
    assert told(unit, "00 00 00 00 00 00") == b""
    assert told(unit, "1b 00 00 00 01 00") == b"", "and is started and stopped"
    assert (unit.block, unit.blocks) == (512, BLOCKS)
    assert sensed(unit) == (0, 0, 0)


def test_inquiry_byte_by_byte(unit: Scsi) -> None:
    said = bytes.fromhex("00 80 05 02 1f 00 00 00") + b"xenfs   " + b"USB stick       " + b"0001"
    assert (told(unit, "12 00 00 0024 00"), len(said), said[4]) == (said, 36, 36 - 5)


@pytest.mark.parametrize("page", ["01 c0", "01 01", "00 80", "00 01"])
def test_inquiry_of_a_page_that_is_not_there(unit: Scsi, page: str) -> None:
    assert refused(unit, f"12 {page} 00ff 00") == scsi.BAD_FIELD


def test_vital_pages_byte_by_byte(unit: Scsi) -> None:
    assert told(unit, "12 01 00 00ff 00") == bytes.fromhex("00 00 0002 00 80"), "which there are"
    assert told(unit, "12 01 80 00ff 00") == bytes.fromhex("00 80 0008") + b"0123ABCD", "the serial number"


def test_names_are_cut_and_are_ascii(disk: FileDisk) -> None:
    unit = power_on(disk, "Überlang & mehr", "x" * 20, "é1")
    assert told(unit, "12 00 00 00ff 00")[8:] == b"?berlang" + b"x" * 16 + b"0001"
    assert told(unit, "12 01 80 00ff 00") == bytes.fromhex("00 80 0002") + b"?1"


def test_capacity_byte_by_byte(unit: Scsi) -> None:
    assert told(unit, "25 00 00000000 0000 00 00") == bytes.fromhex("000007ff 00000200")
    assert told(unit, "9e 10 0000000000000000 00000020 00 00") == bytes.fromhex("00000000000007ff 00000200") + bytes(20)
    assert told(unit, "23 00 00 00 00 00 00 00ff 00") == bytes.fromhex("00 00 00 08 00000800 02 000200")


@pytest.mark.parametrize("action", ["00", "0f", "11", "12", "1f", "e0", "f1"])
def test_another_service_than_the_capacity(unit: Scsi, empty: Scsi, action: str) -> None:
    for one in (unit, empty):
        assert refused(one, f"9e {action} 0000000000000000 00000020 00 00") == scsi.BAD_FIELD
        assert sensed(one) == (5, 0x24, 0)


def test_the_service_is_five_bits(unit: Scsi) -> None:
    assert told(unit, "9e f0 0000000000000000 0000000c 00 00") == bytes.fromhex("00000000000007ff 00000200")


NEEDS_BLOCKS = {
    "TEST UNIT READY": "00 00 00 00 00 00",
    "READ CAPACITY(10)": "25 00 00000000 0000 00 00",
    "READ CAPACITY(16)": "9e 10 0000000000000000 00000020 00 00",
    "READ CAPACITY(16) without room": "9e 10 0000000000000000 00000000 00 00",
}


@pytest.mark.parametrize("name", NEEDS_BLOCKS)
def test_without_blocks_there_is_no_medium(empty: Scsi, name: str) -> None:
    assert empty.blocks == 0
    assert refused(empty, NEEDS_BLOCKS[name]) == scsi.NO_MEDIUM
    assert sensed(empty) == (2, 0x3A, 0)
    assert sensed(empty) == (0, 0, 0)


@pytest.mark.parametrize("name", NEEDS_BLOCKS)
def test_less_than_a_block_is_no_medium(tmp_path: Path, name: str) -> None:
    with closing(FileDisk(str(image(tmp_path / "odd", 511)))) as disk:
        assert refused(power_on(disk), NEEDS_BLOCKS[name]) == scsi.NO_MEDIUM


def test_without_a_medium_a_unit_says_what_it_is(unit: Scsi, empty: Scsi) -> None:
    for words in ("12 00 00 00ff 00", "12 01 00 00ff 00", "12 01 80 00ff 00", "1a 00 3f 00 ff 00", "1b 00 00 00 01 00"):
        assert told(empty, words) == told(unit, words)
    with pytest.raises(Failed):
        empty.command(bytes.fromhex("28 00 00000000 00 0001 00"))


def test_a_medium_is_there_when_it_has_blocks(disk: FileDisk, unit: Scsi) -> None:
    for size, ready in ((0, False), (512, True), (511, False), (1024, True)):
        with Path(disk.path).open("r+b") as file:
            file.truncate(size)
        for words in NEEDS_BLOCKS.values():
            if ready:
                told(unit, words)
            else:
                assert refused(unit, words) == scsi.NO_MEDIUM


def test_a_block_that_is_not_whole_is_none(tmp_path: Path) -> None:
    with closing(FileDisk(str(image(tmp_path / "odd", 1025)))) as disk:
        assert told(power_on(disk), "25") == bytes.fromhex("00000001 00000200")


def test_capacity_is_that_of_the_moment(disk: FileDisk, unit: Scsi) -> None:
    with Path(disk.path).open("r+b") as file:
        file.truncate(1024)
    assert told(unit, "25") == bytes.fromhex("00000001 00000200")
    assert refused(unit, "28 00 00000002 00 0001 00") == scsi.OUT_OF_RANGE


def test_larger_blocks(disk: FileDisk, unit: Scsi) -> None:
    disk.sector_size = 4096
    assert told(unit, "25") == bytes.fromhex("000000ff 00001000")
    assert told(unit, "23 00 00 00 00 00 00 000c 00") == bytes.fromhex("00 00 00 08 00000100 02 001000")
    assert unit.command(bytes.fromhex("28 00 000000ff 00 0001 00")) == Move(255 * 4096, 4096, writes=False)
    assert refused(unit, "28 00 00000100 00 0001 00") == scsi.OUT_OF_RANGE


@pytest.mark.parametrize(
    ("blocks", "short", "long"),
    [
        ((1 << 32) - 1, "fffffffe", "00000000fffffffe"),
        (1 << 32, "ffffffff", "00000000ffffffff"),
        ((1 << 32) + 5, "ffffffff", "0000000100000004"),
    ],
)
def test_what_four_bytes_cannot_tell_eight_do(tmp_path: Path, blocks: int, short: str, long: str) -> None:
    with closing(FileDisk(str(image(tmp_path / "large", blocks * 512)))) as disk:
        unit = power_on(disk)
        assert told(unit, "25").hex() == f"{short}00000200"
        assert told(unit, "9e 10 0000000000000000 0000000c 00 00").hex() == f"{long}00000200"
        assert told(unit, "23 00 00 00 00 00 00 000c 00").hex() == "00000008" + "ffffffff" + "02000200"
        for words in ("28 00 ffffff00 00 0010 00", "a8 00 ffffff00 00000010 00 00"):
            assert unit.command(bytes.fromhex(words)) == Move(0xFFFFFF00 * 512, 16 * 512, writes=False)


def test_blocks_beyond_two_terabytes_are_moved(tmp_path: Path) -> None:
    with closing(FileDisk(str(image(tmp_path / "large", TWO_TERABYTES + 5 * 512)))) as disk:
        unit = power_on(disk)
        assert unit.command(bytes.fromhex("88 00 0000000100000000 00000005 00 00")) == Move(TWO_TERABYTES, 2560, False)
        assert unit.command(bytes.fromhex("8a 00 0000000100000004 00000001 00 00")) == Move(
            TWO_TERABYTES + 4 * 512, 512, writes=True
        )
        assert refused(unit, "88 00 0000000100000000 00000006 00 00") == scsi.OUT_OF_RANGE


CACHING = "08 12 04" + "00" * 17
"""The write cache is on."""


@pytest.mark.parametrize("page", ["08", "3f", "88", "bf"])
def test_mode_byte_by_byte(unit: Scsi, protected: Scsi, page: str) -> None:
    assert told(unit, f"1a 00 {page} 00 ff 00") == bytes.fromhex("17 00 00 00" + CACHING)
    assert told(protected, f"1a 00 {page} 00 ff 00") == bytes.fromhex("17 00 80 00" + CACHING)
    assert told(unit, f"5a 00 {page} 00 00 00 00 00ff 00") == bytes.fromhex("001a 00 00 0000 0000" + CACHING)
    assert told(protected, f"5a 00 {page} 00 00 00 00 00ff 00") == bytes.fromhex("001a 00 80 0000 0000" + CACHING)


def test_mode_without_a_page_says_whether_it_is_write_protected(unit: Scsi, protected: Scsi) -> None:
    assert told(unit, "1a 00 00 00 c0 00") == bytes.fromhex("03 00 00 00")
    assert told(protected, "1a 00 00 00 c0 00") == bytes.fromhex("03 00 80 00")
    assert told(unit, "5a 00 00 00 00 00 00 00c0 00") == bytes.fromhex("0006 00 00 0000 0000")
    assert told(protected, "5a 00 00 00 00 00 00 00c0 00") == bytes.fromhex("0006 00 80 0000 0000")


ROOM = {
    "REQUEST SENSE": ("03 00 00 00", 1, "00"),
    "INQUIRY": ("12 00 00", 2, "00"),
    "INQUIRY of the pages": ("12 01 00", 2, "00"),
    "INQUIRY of the serial number": ("12 01 80", 2, "00"),
    "MODE SENSE(6)": ("1a 00 3f 00", 1, "00"),
    "MODE SENSE(10)": ("5a 00 3f 00 00 00 00", 2, "00"),
    "READ FORMAT CAPACITIES": ("23 00 00 00 00 00 00", 2, "00"),
    "READ CAPACITY(16)": ("9e 10 0000000000000000", 4, "00 00"),
}


@pytest.mark.parametrize("name", ROOM)
def test_no_more_is_told_than_there_is_room_for(unit: Scsi, name: str) -> None:
    before, size, after = ROOM[name]

    def given_room(room: int) -> bytes:
        return told(unit, f"{before} {room.to_bytes(size, 'big').hex()} {after}")

    whole = given_room((1 << 8 * size) - 1)
    assert len(whole) > 4
    for room in range(len(whole) + 2):
        assert given_room(room) == whole[:room]


# Blocks.

LAST = BLOCKS - 1
MOVES = [
    ("08 00 0010 08 00", 0x10, 8, False),
    ("08 00 0010 00 00", 0x10, 256, False),  # none means many
    ("08 e0 0010 01 00", 0x10, 1, False),  # bits that are no part of it
    ("08 00 07ff 01 00", LAST, 1, False),
    ("0a 00 0010 08 00", 0x10, 8, True),
    ("0a 00 0000 00 00", 0, 256, True),
    ("28 00 00000000 00 0000 00", 0, 0, False),  # and here it means none
    ("28 00 00000010 00 0008 00", 0x10, 8, False),
    ("28 08 00000010 1f 0008 00", 0x10, 8, False),
    ("28 00 00000000 00 0800 00", 0, BLOCKS, False),
    ("28 00 000007ff 00 0001 00", LAST, 1, False),
    ("2a 00 00000010 00 0008 00", 0x10, 8, True),
    ("2a 00 00000000 00 0000 00", 0, 0, True),
    ("a8 00 00000010 00000008 00 00", 0x10, 8, False),
    ("a8 00 00000000 00000800 00 00", 0, BLOCKS, False),
    ("aa 00 00000010 00000008 00 00", 0x10, 8, True),
    ("88 00 0000000000000010 00000008 00 00", 0x10, 8, False),
    ("88 00 00000000000007ff 00000001 00 00", LAST, 1, False),
    ("8a 00 0000000000000010 00000008 00 00", 0x10, 8, True),
]
READS = [words for words, _, count, writes in MOVES if count and not writes]
WRITES = [words for words, _, count, writes in MOVES if count and writes]


@pytest.mark.parametrize(("words", "block", "count", "writes"), MOVES)
def test_blocks_to_be_moved(unit: Scsi, words: str, block: int, count: int, writes: bool) -> None:
    assert unit.command(bytes.fromhex(words)) == Move(block * 512, count * 512, writes)


@pytest.mark.parametrize(
    "words",
    [
        "08 00 07ff 02 00",
        "08 00 0701 00 00",
        "08 1f ffff 01 00",
        "0a 00 0800 01 00",
        "28 00 00000000 00 0801 00",
        "28 00 00000800 00 0001 00",
        "28 00 00000801 00 0000 00",
        "28 00 ffffffff 00 ffff 00",
        "2a 00 000007ff 00 0002 00",
        "a8 00 00000001 00000800 00 00",
        "a8 00 ffffffff ffffffff 00 00",
        "aa 00 00000800 00000001 00 00",
        "88 00 0000000000000001 00000800 00 00",
        "88 00 0000000100000000 00000001 00 00",
        "88 00 ffffffffffffffff 00000001 00 00",
        "8a 00 ffffffffffffffff ffffffff 00 00",
        "2f 00 000007ff 00 0002 00",
    ],
)
def test_blocks_that_are_not_there(unit: Scsi, words: str) -> None:
    assert refused(unit, words) == scsi.OUT_OF_RANGE
    assert sensed(unit) == (5, 0x21, 0)


@pytest.mark.parametrize("words", WRITES)
def test_what_is_write_protected_is_not_written(protected: Scsi, words: str) -> None:
    assert refused(protected, words) == scsi.WRITE_PROTECTED
    assert sensed(protected) == (7, 0x27, 0)


@pytest.mark.parametrize("words", READS)
def test_what_is_write_protected_is_read(unit: Scsi, protected: Scsi, words: str) -> None:
    assert protected.command(bytes.fromhex(words)) == unit.command(bytes.fromhex(words))


def test_verify_moves_nothing_and_compares_nothing(unit: Scsi) -> None:
    assert told(unit, "2f 00 00000000 00 0800 00") == b""
    assert refused(unit, "2f 02 00000000 00 0001 00") == scsi.BAD_FIELD


@pytest.mark.parametrize("words", ["35 00 00000000 00 0000 00", "91 00 0000000000000000 00000000 00 00"])
def test_synchronize_flushes(unit: Scsi, protected: Scsi, words: str) -> None:
    for one in (unit, protected):
        assert one.command(bytes.fromhex(words)) is Flush


def test_the_medium_is_to_stay_until_it_may_go(unit: Scsi) -> None:
    assert not unit.locked
    for bits, locked in (("01", True), ("03", True), ("00", False), ("02", False)):
        assert told(unit, f"1e 00 00 00 {bits} 00") == b""
        assert unit.locked is locked


# Sense.


@pytest.mark.parametrize("words", ["04 00 00 00 00 00", "42" + "00" * 9, "7f", "c0" + "ff" * 15, "ff"])
def test_a_command_that_is_not_known(unit: Scsi, words: str) -> None:
    assert refused(unit, words) == scsi.NO_SUCH_COMMAND
    assert sensed(unit) == (5, 0x20, 0)


def test_an_error_is_sensed_once(unit: Scsi) -> None:
    refused(unit, "28 00 00000800 00 0001 00")
    assert sensed(unit) == (5, 0x21, 0)
    assert sensed(unit) == (0, 0, 0)


def test_the_last_error_is_sensed(unit: Scsi) -> None:
    refused(unit, "28 00 00000800 00 0001 00")
    refused(unit, "ff")
    assert sensed(unit) == (5, 0x20, 0)


def test_what_went_well_is_sensed_too(unit: Scsi) -> None:
    refused(unit, "ff")
    told(unit, "00 00 00 00 00 00")
    assert sensed(unit) == (0, 0, 0)


def test_what_the_medium_did_is_sensed(unit: Scsi) -> None:
    unit.command(bytes.fromhex("28 00 00000000 00 0001 00"))
    unit.failed(writes=False)
    assert sensed(unit) == (3, 0x11, 0)
    unit.command(bytes.fromhex("2a 00 00000000 00 0001 00"))
    unit.failed(writes=True)
    assert sensed(unit) == (3, 0x0C, 0)
    assert sensed(unit) == (0, 0, 0)


# Anything.


def test_what_is_missing_of_a_command_is_0(unit: Scsi) -> None:
    assert unit.command(b"\x28") == Move(0, 0, writes=False)
    assert unit.command(b"\x08") == Move(0, 256 * 512, writes=False)
    assert unit.command(b"\x28\0\0\0\0\x10\0\0\x08") == Move(16 * 512, 8 * 512, writes=False)
    assert unit.command(b"\x12") == unit.command(b"\x03") == b""
