"""What a device is claimed by, so that it is in one port at a time."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from xenblk.loopdev import CONTROL, LoopDevice
from xenusb.ports import Claim

from tests.usb.port import OURS, descriptors


@pytest.fixture
def block(file: Path, tmp_path: Path) -> Iterator[Path]:
    """A block device, by a node that is not udev's, which locks its own at times."""
    if os.geteuid() != 0 or not Path(CONTROL).exists():
        pytest.skip("loop devices need root")
    with closing(LoopDevice(str(file), sector_size=512, readonly=False)) as device:
        node = tmp_path / "block"
        os.mknod(node, stat.S_IFBLK | 0o600, Path(device.path).stat().st_rdev)
        yield node


def refused(text: str) -> None:
    """Somebody has it."""
    with pytest.raises(OSError, match="it is in another port already") as caught:
        Claim(text)
    assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, text)


def claimed_once(text: str, *others: str) -> None:
    """Whoever has it has it alone, whichever way it is written, until it is let go."""
    for first in (text, *others):
        with closing(Claim(first)):
            for second in (text, *others):
                refused(second)


def spellings(kind: str, path: Path, folder: Path) -> list[str]:
    """Texts that name a file that is there."""
    folder = folder / "links"
    folder.mkdir()
    (folder / "symbolic").symlink_to(path)
    (folder / "again").symlink_to(folder / "symbolic")
    (folder / "hard").hardlink_to(path)
    return [f"{kind}:{name}" for name in (path, f"{path.parent}/./{path.name}", *folder.iterdir())]


@pytest.mark.parametrize("form", ["serial:/{}/line", "usbip:{}/1-1", "usbip:{}:3241/1-1.2"])
def test_what_is_no_file_is_claimed_by_its_name(form: str) -> None:
    text = form.format(OURS)
    claimed_once(text)
    with closing(Claim(text)), closing(Claim(f"{text}0")):
        refused(text)


def test_a_file_is_claimed_by_whichever_name(file: Path, tmp_path: Path) -> None:
    texts = spellings("stick", file, tmp_path)
    claimed_once(*texts, f"{texts[0]},ro", f"{texts[-1]},rw")


def test_a_fifo_is_claimed_by_whichever_name(pipe: Path, tmp_path: Path) -> None:
    claimed_once(*spellings("keyboard", pipe, tmp_path))


def test_a_block_device_is_claimed_by_whichever_name(block: Path, tmp_path: Path) -> None:
    texts = spellings("stick", block, tmp_path)
    claimed_once(*texts, f"{texts[0]},ro")


def test_files_have_nothing_to_do_with_each_other(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(file.read_bytes())
    with closing(Claim(f"stick:{file}")), closing(Claim(f"stick:{other}")):
        refused(f"stick:{file}")


def test_a_serial_line_is_claimed_while_its_link_is_there_and_after_it_has_gone(tmp_path: Path) -> None:
    link = tmp_path / "line"
    for target in ("/dev/pts/ptmx", "/dev/pts/99999"):
        with closing(Claim(f"serial:{link}")):
            link.symlink_to(target)
            refused(f"serial:{link}")
        claimed_once(f"serial:{link}")
        link.unlink()


def test_a_loopback_may_be_had_any_number_of_times() -> None:
    with closing(Claim("loopback:")), closing(Claim("loopback:")), closing(Claim("loopback:")):
        pass


def test_what_is_refused_keeps_nothing(file: Path) -> None:
    before = descriptors()
    with closing(Claim(f"stick:{file}")), closing(Claim(f"usbip:{OURS}/1-1")):
        for text in (f"stick:{file}", f"usbip:{OURS}/1-1"):
            refused(text)
        assert descriptors() == before + 2
    assert descriptors() == before
