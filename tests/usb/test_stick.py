"""An emulated stick by itself: its image, and what may become of that."""

from __future__ import annotations

import os
import resource
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xenusb.bulk_only import FAILED, GET_MAX_LUN, PASSED, Outcome
from xenusb.descriptors import TO_DEVICE, Ask, Kind, text
from xenusb.stick import Stick

from tests.usb.gadgets import fifo, image
from tests.usb.mass import (
    IN,
    NEW,
    OUT,
    OUT_OF_RANGE,
    READ_ERROR,
    READY,
    SYNCHRONIZE,
    WRITE_ERROR,
    WRITE_PROTECTED,
    Mass,
    Ran,
    read,
    write,
)
from tests.usb.port import OF_CLASS, SECONDS, Port, descriptors, got
from xenfs.abi.usbif import Status


def test_a_stick_is_one_unit_of_mass_storage(port: Port, mass: Mass) -> None:
    (one,) = mass.stick.configuration.interfaces
    assert (one.klass, one.subclass, one.protocol) == (8, 6, 0x50)
    assert port.ask(OF_CLASS, GET_MAX_LUN, 0, 0, 1) == b"\0"
    serial_number = text(port.descriptor(Kind.string, 3))
    assert len(serial_number) == 8
    assert mass.run(bytes((0x12, 1, 0x80, 0, 255, 0)), 255).data[4:] == serial_number.encode()


def test_what_is_in_the_image_is_read(mass: Mass) -> None:
    data = mass.path.read_bytes()
    assert mass.run(read(0, 8), 4096) == Ran(PASSED, 0, data)
    assert mass.run(read(3, 2), 1024) == Ran(PASSED, 0, data[1536:2560])


def test_what_is_written_is_in_the_image(mass: Mass) -> None:
    before = mass.path.read_bytes()
    assert mass.run(write(2, 3), sent=NEW[:1536]) == Ran(PASSED)
    assert mass.path.read_bytes() == before[:1024] + NEW[:1536] + before[2560:]
    mass.works()


def test_a_failed_command_says_why_when_asked(mass: Mass) -> None:
    assert mass.run(b"\xff" * 6) == Ran(FAILED)
    assert mass.sense() == (5, 0x20, 0)
    assert mass.sense() == (0, 0, 0)
    assert mass.run(read(8, 1), 512) == Ran(FAILED, 512)
    assert mass.sense() == OUT_OF_RANGE
    assert mass.run(write(7, 2), sent=NEW[:1024]) == Ran(FAILED, 1024)
    assert mass.sense() == OUT_OF_RANGE
    mass.works()


def test_a_stick_that_may_only_be_read(port: Port, tmp_path: Path) -> None:
    path = image(tmp_path / "image")
    path.chmod(0o444)
    before = path.read_bytes()
    mass = Mass(port, path, ",ro")
    assert mass.run(write(0, 1), sent=NEW[:512]) == Ran(FAILED, 512)
    assert mass.sense() == WRITE_PROTECTED
    assert mass.run(bytes((0x1A, 0, 0x3F, 0, 192, 0)), 192).data[2] == 0x80
    assert mass.run(SYNCHRONIZE) == Ran(PASSED)
    mass.works()
    assert path.read_bytes() == before


def test_a_stick_that_may_be_written_says_so(port: Port, tmp_path: Path) -> None:
    mass = Mass(port, image(tmp_path / "image"), ",rw")
    assert mass.run(bytes((0x1A, 0, 0x3F, 0, 192, 0)), 192).data[2] == 0
    assert mass.run(write(0, 1), sent=NEW[:512]) == Ran(PASSED)


def test_a_stick_is_alive_while_it_synchronizes(mass: Mass) -> None:
    port = mass.port
    mass.command(SYNCHRONIZE)
    status = port.bulk(IN, 13)
    assert not status.over, "the answer comes through the loop"
    assert port.ask(OF_CLASS, GET_MAX_LUN, 0, 0, 1) == b"\0"
    assert not port.halted(0x81)
    port.wait(status)
    assert Outcome.parse(got(status)) == Outcome(mass.tag, 0, PASSED)


def test_nobody_hears_of_what_was_synchronized_before_a_reset(mass: Mass) -> None:
    mass.command(SYNCHRONIZE)
    mass.recover()
    assert mass.command(b"\xff" * 6).over
    assert mass.port.loop.turn(SECONDS), "now it has been synchronized"
    assert mass.status() == Outcome(mass.tag, 0, FAILED)
    mass.works()


def test_a_stick_is_unplugged_while_it_synchronizes(mass: Mass) -> None:
    port = mass.port
    mass.command(SYNCHRONIZE)
    status, command = port.bulk(IN, 13), mass.command(READY)
    port.unplug()
    port.settle()
    assert (status.status, command.status) == (Status.nodev, Status.nodev)


def test_a_stick_is_reset_in_the_middle_of_its_data(mass: Mass) -> None:
    mass.command(write(0, 2), 1024, inward=False)
    mass.port.bulk(OUT, NEW[:512])
    mass.stick.reset()
    mass.port.tell(TO_DEVICE, Ask.set_configuration, 1)
    mass.works()
    assert mass.path.read_bytes()[:512] == NEW[:512], "what was written stays"


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize(
    ("words", "size"),
    [(read(0, 2), 1024), (write(0, 2), 1024), (SYNCHRONIZE, 0), (READY, 0)],
    ids=["reading", "writing", "synchronizing", "with a status"],
)
def test_a_stick_begins_anew_when_its_configuration_is_chosen(
    mass: Mass, words: bytes, size: int, value: int
) -> None:  # fmt: skip
    port, writes = mass.port, words == write(0, 2)
    mass.command(words, size, inward=not writes)
    waits = [port.bulk(IN, 13) if writes else mass.command(READY) for _ in range(2)]
    assert not any(transfer.over for transfer in waits)
    for chosen in (value, 1):
        port.tell(TO_DEVICE, Ask.set_configuration, chosen)
    assert [transfer.status for transfer in waits] == [Status.shutdown] * 2
    mass.works()


def test_an_image_that_is_truncated_is_a_smaller_disk(mass: Mass) -> None:
    os.truncate(mass.path, 1024)
    assert mass.run(read(1, 2), 1024) == Ran(FAILED, 1024)
    assert mass.sense() == OUT_OF_RANGE
    assert mass.run(b"\x25".ljust(10, b"\0"), 8).data == struct.pack(">II", 1, 512)
    mass.works()


def test_an_image_that_is_truncated_while_it_is_read_is_an_error_and_the_stick_lives(mass: Mass) -> None:
    port = mass.port
    mass.command(read(0, 8), 4096)
    assert port.bulk(IN, 1024).status is Status.ok
    os.truncate(mass.path, 1024)
    data = port.bulk(IN, 1024)
    assert (data.status, data.actual) == (Status.stall, 0)
    assert mass.status() == Outcome(mass.tag, 3072, FAILED)
    assert mass.sense() == READ_ERROR
    assert len(port.said) == 1
    assert port.said[0].startswith(f"{mass.path}: ")
    assert not port.gone
    mass.works()


def test_an_empty_image_has_no_blocks(port: Port, tmp_path: Path) -> None:
    mass = Mass(port, image(tmp_path / "image", 0))
    assert mass.run(read(0, 1), 512) == Ran(FAILED, 512)
    assert mass.sense() == OUT_OF_RANGE


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Nothing is written behind so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_cannot_be_written_is_an_error_and_the_stick_lives(mass: Mass) -> None:
    port, before = mass.port, mass.path.read_bytes()
    with small_files(1024):
        ran = mass.run(write(1, 4), sent=NEW[:2048], piece=512)
    assert ran == Ran(FAILED, 1536), "the host is let have its say, and one block was written"
    assert mass.sense() == WRITE_ERROR
    assert mass.path.read_bytes() == before[:512] + NEW[:512] + before[1024:]
    assert len(port.said) == 1
    mass.works()


def test_two_sticks_know_nothing_of_each_other(port: Port, tmp_path: Path) -> None:
    with closing(Port(port.loop)) as other:
        one, two = Mass(port, image(tmp_path / "one")), Mass(other, image(tmp_path / "two", 4))
        assert one.stick.about.serial != two.stick.about.serial
        one.command(write(0, 1), 512, inward=False)
        assert two.run(write(0, 1), sent=NEW[512:1024]) == Ran(PASSED)
        one.port.bulk(OUT, NEW[:512])
        two.command(b"\xff" * 6)
        assert one.status() == Outcome(1, 0, PASSED)
        assert two.status().status == FAILED
        assert one.sense() == (0, 0, 0)
        assert two.sense() == (5, 0x20, 0)
        assert one.path.read_bytes()[:512] == NEW[:512]
        assert two.path.read_bytes()[:512] == NEW[512:1024]
        one.command(SYNCHRONIZE)
        two.command(SYNCHRONIZE)
        other.unplug()
        assert one.status().status == PASSED
        one.works()


@pytest.mark.parametrize("word", [",rw,ro", ",readonly", ", ro"])
def test_a_stick_of_another_word_is_none(port: Port, tmp_path: Path, word: str) -> None:
    path = image(tmp_path / "image")
    with pytest.raises(OSError, match="neither ro nor rw"):
        port.plug(Stick, f"{path}{word}")


def test_a_stick_of_what_is_no_disk_is_none(port: Port, tmp_path: Path) -> None:
    before = descriptors()
    for path in (tmp_path, tmp_path / "nothing", fifo(tmp_path / "fifo"), Path("/dev/null")):
        with pytest.raises(OSError, match=str(path)):
            port.plug(Stick, str(path))
    assert descriptors() == before


@st.composite
def moves(draw: st.DrawFn) -> tuple[bool, int, int, int, tuple[int, ...]]:
    """Whether it writes; the first block, and how many; blocks of a transfer; sizes of views."""
    at = draw(st.integers(0, 7))
    count = draw(st.integers(1, 8 - at))
    cuts = draw(st.lists(st.integers(0, 170), max_size=3))
    return draw(st.booleans()), at, count, draw(st.integers(1, 8)), tuple(cuts)


@given(script=st.lists(moves(), max_size=12), seed=st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_a_stick_is_what_an_array_of_bytes_is(
    tmp_path_factory: pytest.TempPathFactory,
    script: list[tuple[bool, int, int, int, tuple[int, ...]]],
    seed: int,
) -> None:
    path = image(tmp_path_factory.mktemp("model") / "image")
    model = bytearray(path.read_bytes())
    with closing(Port()) as port:
        mass = Mass(port, path)
        for number, (writes, at, count, blocks, cuts) in enumerate(script):
            part, size = slice(at * 512, (at + count) * 512), count * 512
            if writes:
                model[part] = bytes((seed + number + byte) % 251 for byte in range(size))
                assert mass.run(write(at, count), sent=bytes(model[part]), piece=blocks * 512, cuts=cuts) == Ran(PASSED)
            else:
                ran = mass.run(read(at, count), size, piece=blocks * 512, cuts=cuts)
                assert ran == Ran(PASSED, 0, bytes(model[part]))
    assert path.read_bytes() == model
