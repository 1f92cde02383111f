"""Any command at all: a stick does it or refuses it, and senses which."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xenblk.disk import FileDisk
from xenusb import scsi
from xenusb.scsi import Failed, Flush, Move, Scsi

from tests.usb.units import BLOCKS, COMMANDS, image, power_on, sensed


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Scsi]]:
    """For examples that come one after the other."""
    path = tmp_path_factory.mktemp("scsi")
    with (
        closing(FileDisk(str(image(path / "image")))) as disk,
        closing(FileDisk(str(image(path / "protected")), readonly=True)) as protected,
        closing(FileDisk(str(image(path / "empty", 0)))) as empty,
    ):
        yield {"whole": power_on(disk), "protected": power_on(protected), "empty": power_on(empty)}


WORDS = st.one_of(
    st.binary(min_size=1, max_size=16),
    st.tuples(st.sampled_from(COMMANDS), st.binary(max_size=15)).map(lambda one: bytes((one[0],)) + one[1]),
    st.tuples(st.sampled_from([0x28, 0x2A, 0x2F]), st.integers(0, 2 * BLOCKS), st.integers(0, 2 * BLOCKS)).map(
        lambda one: struct.pack(">BxIxHx", *one)
    ),
)


@given(words=WORDS)
def test_any_command_is_done_or_refused(units: dict[str, Scsi], words: bytes) -> None:
    for name, unit in units.items():
        found: object = None
        said = scsi.GOOD
        try:
            found = unit.command(words)
        except Failed as failed:
            said = failed.sense
        assert sensed(unit) == (said.key, said.code, said.qualifier)
        assert sensed(unit) == (0, 0, 0)
        if isinstance(found, Move):
            assert 0 <= found.offset <= found.offset + found.size <= (0 if name == "empty" else BLOCKS * 512)
            assert name != "protected" or not found.writes
        else:
            assert isinstance(found, bytes) or found is Flush or said.key
        assert (said == scsi.NO_SUCH_COMMAND) is (words[0] not in COMMANDS)
        assert name == "empty" or said != scsi.NO_MEDIUM
