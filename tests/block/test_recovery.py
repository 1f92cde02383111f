"""blkback killed again and again under fio, which verifies every byte; blkfront killed; the names on real Xen."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from xl import kinds, spec, toolstack

from tests.block.conftest import need_loop
from tests.block.yard import Yard, python, run
from tests.mounted.mount import until
from tests.need import need_tool
from tests.toolstack.stage import SECONDS
from tests.toolstack.states import in_order, states
from tests.toolstack.test_tree import golden, whole
from xenfs.abi.xenbus import XenbusState as S
from xenfs.xenbus import Device

FIO_SECONDS = int(os.environ.get("XENFS_FIO_SECONDS", "6"))
"""XENFS_FIO_SECONDS=180 for minutes of it."""
pytestmark = pytest.mark.timeout(120 + 4 * FIO_SECONDS)
MiB = 1 << 20


def fio(path: str, *more: str) -> list[str]:
    """Random writes, each block with its checksum, and all of them read again; loops until its time is over."""
    words = [
        "fio",
        "--name=verify",
        f"--filename={path}",
        "--rw=randrw",
        "--bsrange=4k-64k",
        "--size=48m",
        "--direct=1",
    ]
    words += [
        "--ioengine=libaio",
        "--iodepth=8",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--fsync=64",
        "--time_based",
    ]
    return [*words, f"--runtime={FIO_SECONDS}", "--output-format=terse", *more]


def has_moved(yard: Yard, device: Device, count: int, process: subprocess.Popen[str]) -> bool:
    """Whether so many requests have been answered, or none more will be asked."""
    return yard.front_stats(device).units_out > count or process.poll() is not None


def verified(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=100 + 3 * FIO_SECONDS)
    assert process.returncode == 0, said
    assert said.split(";")[4] == "0", "fio counts errors there"


@pytest.mark.parametrize("kills", [False, True], ids=["in peace", "with kill -9"])
def test_fio_finds_every_byte(yard: Yard, kills: bool) -> None:
    need_loop()
    need_tool("fio", "fio")
    device = yard.attach(yard.guest(), f"{yard.image(64 * MiB)},raw,xvda,rw")
    killed = 0
    process = subprocess.Popen(fio(yard.node(device)), stdout=subprocess.PIPE, text=True)
    try:
        while kills and process.poll() is None:
            yard.stage.mount.arm(120)
            moved = yard.front_stats(device).units_out + 64
            until(partial(has_moved, yard, device, moved, process), SECONDS)
            if process.poll() is None:
                yard.kill_back(device)
                killed += 1
        verified(process)
    finally:
        process.kill()
        process.communicate()
    assert killed > 1 or not kills
    assert yard.back_stats(device).errors == 0
    assert yard.front_stats(device).errors == 0


CONSISTENT = """
import os, sys
path, state = sys.argv[1:]
fd, log = os.open(path, os.O_RDWR), os.open(state, os.O_RDWR | os.O_CREAT)
print("ready", flush=True)
for number in range(1, 1 << 30):
    os.pwrite(fd, number.to_bytes(8, "little") * 512, number % 512 * 4096)
    os.fsync(fd)
    os.pwrite(log, number.to_bytes(8, "little"), 0)
"""


def test_nothing_acknowledged_is_lost_and_order_is_kept(yard: Yard, tmp_path: Path) -> None:
    """A writer of numbered blocks, each flushed before the next; what it was told is on the host's disk."""
    image = yard.image(64 * MiB)
    device = yard.attach(yard.guest(), f"{image},raw,xvda,rw")
    state = tmp_path / "state"
    words = ["timeout", "-s", "KILL", "100", sys.executable, "-c", CONSISTENT, str(yard.file(device)), str(state)]
    writer = subprocess.Popen(words, stdout=subprocess.PIPE)

    def said() -> int:
        return int.from_bytes(state.read_bytes(), "little") if state.exists() else 0

    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        for _ in range(6):
            before = said()
            until(lambda before=before: said() > before + 50, SECONDS)  # type: ignore[misc]
            yard.kill_back(device)
            acknowledged = said()
            with image.open("rb") as file:
                for number in range(max(1, acknowledged - 400), acknowledged + 1):
                    file.seek(number % 512 * 4096)
                    assert int.from_bytes(file.read(8), "little") >= number
    finally:
        os.kill(writer.pid, signal.SIGTERM)
        writer.communicate(timeout=30)


def test_a_blkfront_that_dies_leaves_nothing_and_the_next_has_the_disk(yard: Yard) -> None:
    image = yard.image(8 * MiB)
    image.write_bytes(os.urandom(8 * MiB))
    device = yard.attach(yard.guest(), f"{image},raw,xvda,rw")
    before, file = yard.front(), yard.file(device)
    os.kill(before, signal.SIGKILL)
    until(lambda: yard.front() != before, SECONDS)
    until(lambda: yard.said(device, "xenfs-file") not in ("", str(file)), SECONDS)
    yard.stage.until_connected(device)
    code = "import sys; print(open(sys.argv[1], 'rb').read() == open(sys.argv[2], 'rb').read())"
    assert python(code, str(yard.file(device)), str(image)) == "True\n"
    assert len([line for line in yard.leftover() if "fuse" in line]) == 1


def test_a_guest_that_is_destroyed_leaves_no_disk(yard: Yard) -> None:
    domid = yard.guest()
    yard.attach(domid, f"{yard.image(8 * MiB)},raw,xvda,rw")
    assert yard.stage.xenfs("destroy", str(domid)).returncode == 0
    until(lambda: not yard.leftover(), SECONDS)
    until(lambda: not yard.stage.pids("backend/vbd"), SECONDS)


NOT_OURS = {r".*/physical-device": "the number of a device: the golden disk is /dev/ram0, ours is a file"}
ANOTHER_VALUE = {
    r".*/params": "the file behind it",
    r".*/physical-device-path": "likewise",
    r".*/multi-queue-max-queues": "processors",
    r".*/feature-(flush-cache|barrier|discard)": "a file can, /dev/ram0 cannot",
    r".*/sectors": "the size",
    r".*/physical-sector-size": "of a file: 512",
    r".*/(ring-ref|event-channel)": "the numbers of grants and ports",
}
ONLY_OURS = {
    r".*/discard-(granularity|alignment)": "comes with feature-discard",
    r".*/xenfs-(file|device)": "where blkfront has the disk",
}


def matches(path: str, patterns: dict[str, str]) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def test_keys_values_and_permissions_are_those_of_xl_and_linux(yard: Yard) -> None:
    device = yard.attach(yard.guest(), f"{yard.image(16 * MiB)},raw,xvda,rw")
    assert device == Device("vbd", 1, 51712)
    directories = (device.frontend_path, device.backend_path, device.libxl_path)
    ours = {path: node for directory in directories for path, node in whole(yard.stage.store, directory)}
    below = tuple(f"{directory}/" for directory in directories)
    theirs = {path: node for path, node in golden("tree-2-connected.txt").items() if path.startswith(below)}
    assert len(theirs) > 40
    missing = {path for path in theirs if path not in ours}
    assert {path for path in missing if not matches(path, NOT_OURS)} == set()
    more = {path for path in ours if path not in theirs and path not in directories}
    assert {path for path in more if not matches(path, ONLY_OURS)} == set()
    different = {path for path in theirs if path in ours and ours[path] != theirs[path]}
    assert {path for path in different if not matches(path, ANOTHER_VALUE)} == set()
    assert all(ours[path][1] == theirs[path][1] for path in theirs if path in ours), "permissions"


def test_a_guest_without_root_has_the_disk_as_a_file(yard: Yard) -> None:
    """What is behind the block device is of use by itself."""
    device = yard.attach(yard.guest(), f"{yard.image(8 * MiB)},raw,xvda,rw")
    file = str(yard.file(device))
    run("dd", "if=/dev/urandom", f"of={file}", "bs=64k", "count=4", "conv=notrunc,fsync", "status=none")
    assert run("stat", "-c", "%s %F", file) == f"{8 * MiB} regular file\n"


def test_states_as_on_real_xen(yard: Yard) -> None:
    """A disk that comes, a frontend that leaves, a disk that goes, and one that goes with its guest (D.6)."""
    stage, domid, image = yard.stage, yard.guest(), yard.image(8 * MiB)
    first, second = Device("vbd", domid, 51712), Device("vbd", domid, 51728)
    with states(stage, first) as seen:
        yard.attach(domid, f"{image},raw,xvda,rw")
    assert seen[-1] in ("FE 4", "BE 4")
    assert in_order(seen, ["FE 1", "BE 1", "BE 2", "FE 3", "BE 4", "FE 4"]), seen
    with states(stage, first) as seen:
        os.kill(yard.front(), signal.SIGTERM)
        stage.until_states(first, S.Closed, S.Closed)
    assert in_order(seen, ["FE 6", "BE 6"]), seen
    yard.attach(domid, f"{yard.image(8 * MiB, 'second')},raw,xvdb,rw")
    with states(stage, second) as seen:
        yard.detach(second)
    assert in_order(seen, ["BE 5", "FE 6", "BE 6"]), seen
    yard.attach(domid, f"{yard.image(8 * MiB, 'third')},raw,xvdb,rw")
    with states(stage, second) as seen:
        toolstack.destroy(stage.root, stage.point, domid)
    assert in_order(seen, ["FE 6", "BE 5", "BE 6"]), seen


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_disk_in_the_place_of_another_is_not_served_as_that(yard: Yard, elsewhere: bool) -> None:
    """blkfront does not run while its disk is taken away and another is attached, perhaps by another domain."""
    stage, domid = yard.stage, yard.guest()
    images = [yard.image(MiB, "first"), yard.image(MiB, "second")]
    for image in images:
        image.write_bytes(image.name.encode() * 512)
    device = yard.attach(domid, f"vdev=xvda,target={images[0]}")
    assert yard.file(device).read_bytes().startswith(b"first")
    backend = stage.guest("driver") if elsewhere else 0
    if elsewhere:
        stage.devd(backend)
    front = yard.front()
    os.kill(front, signal.SIGSTOP)
    assert spec.detach(stage.store, [device], destroy=True) == []
    wanted = kinds.parse("vbd", f"vdev=xvda,backend={backend},target={images[1]}", domid, 0, int)
    spec.add(stage.store, wanted)
    spec.wait_ready(stage.store, wanted)
    os.kill(front, signal.SIGCONT)
    stage.until_connected(wanted.device)
    until(lambda: yard.said(device, "xenfs-file") != "", SECONDS)
    assert yard.file(device).read_bytes().startswith(b"second")
