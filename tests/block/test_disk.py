"""A disk as the programs of a guest use it: filesystems, odd offsets, sizes, and what goes wrong on the host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from xenblk.loopdev import LoopDevice

from tests.block.conftest import need_loop
from tests.block.yard import Yard, holding, in_mount, python, run
from tests.mounted.command.lab import PROGRAM
from tests.mounted.mount import until
from tests.need import need_tool
from tests.toolstack.stage import SECONDS
from xenfs.xenbus import Device

pytestmark = pytest.mark.timeout(120)
REPO = Path(__file__).parents[2]
MiB = 1 << 20

ODD = """
import os, random, sys
path, image, size, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng, model = random.Random(seed), bytearray(size)
fd = os.open(path, os.O_RDWR)
for _ in range(400):
    at = rng.randrange(size)
    length = min(size - at, rng.choice([1, 7, 511, 512, 513, 4096, 5000, 70000, 300000]))
    if rng.random() < 0.6:
        data = rng.randbytes(length)
        assert os.pwrite(fd, data, at) == length
        model[at : at + length] = data
    else:
        assert os.pread(fd, length, at) == model[at : at + length], (at, length)
os.fsync(fd)
assert open(image, "rb").read() == model, "what is on the host's disk"
print("ok")
"""


@pytest.fixture
def disk(shared: Yard, tmp_path: Path) -> Iterator[tuple[Yard, Device, Path]]:
    """A disk of 64 MiB."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 * MiB)
    device = shared.attach(shared.guest(), f"{image},raw,xvda,rw")
    yield shared, device, image
    shared.detach(device)


def test_a_filesystem_with_a_tree_in_it(disk: tuple[Yard, Device, Path]) -> None:
    need_loop()
    yard, device, _ = disk
    node, tree = yard.node(device), REPO / "xenfs"
    run("mkfs.ext4", "-q", node)
    in_mount(node, f"cp -r {tree} /mnt/tree; sync; diff -r {tree} /mnt/tree")
    assert "0.0% non-contiguous" in run("e2fsck", "-fn", node)
    in_mount(node, f"diff -r {tree} /mnt/tree", "-o ro")
    stats = yard.back_stats(device)
    assert stats.errors == 0
    assert stats.bytes_in > 2 * MiB


@pytest.mark.parametrize("seed", range(3))
def test_any_offset_and_size(disk: tuple[Yard, Device, Path], seed: int) -> None:
    yard, device, image = disk
    assert python(ODD, str(yard.file(device)), str(image), str(64 * MiB), str(seed)) == "ok\n"


def test_a_disk_past_the_hosts_page_cache(shared: Yard) -> None:
    image = shared.image(16 * MiB, "direct")
    device = shared.attach(shared.guest(), f"{image},raw,xvda,rw,direct-io-safe")
    try:
        flags = Path(f"/proc/{shared.back(device)}/fdinfo")
        opened = [fd for fd in flags.parent.joinpath("fd").iterdir() if str(fd.readlink()) == str(image)]
        assert int((flags / opened[0].name).read_text().split("flags:")[1].split()[0], 8) & os.O_DIRECT
        assert python(ODD, str(shared.file(device)), str(image), str(16 * MiB), "7") == "ok\n"
    finally:
        shared.detach(device)


def test_a_filesystem_is_made_and_looked_into_without_mounting(disk: tuple[Yard, Device, Path]) -> None:
    need_tool("debugfs", "e2fsprogs")
    yard, device, _ = disk
    file = str(yard.file(device))
    run("mke2fs", "-q", "-F", "-t", "ext4", file)
    run("debugfs", "-w", "-R", f"write {REPO / 'README.md'} readme", file)
    assert run("debugfs", "-R", "cat readme", file) == (REPO / "README.md").read_text()
    run("e2fsck", "-fn", file)


def test_the_guest_has_it_as_xvda_with_its_partitions(disk: tuple[Yard, Device, Path]) -> None:
    need_loop()
    need_tool("sfdisk", "fdisk")
    yard, device, _ = disk
    # a kernel that knows no partition tables is told by partx; one that does has them already
    parts = "echo , | sfdisk -q /dev/xvda; test -e /dev/xvda1 || partx -a /dev/xvda"
    script = f"{parts}; mkfs.ext4 -q /dev/xvda1; mount /dev/xvda1 /mnt; echo hi > /mnt/x; cat /mnt/x; umount /mnt"
    assert yard.stage.fine("exec", str(device.domid), "--", "sh", "-e", "-c", script) == "hi\n"
    assert not Path("/dev/xvda").exists(), "the host sees nothing of it"


def test_what_a_guest_says_of_its_disks_is_taken_for_a_disk_or_passed_over(disk: tuple[Yard, Device, Path]) -> None:
    need_loop()
    yard, device, _ = disk
    guest, node = str(device.domid), yard.node(device).rpartition("/")[2]
    twice = ("exec", guest, "--", *PROGRAM, "exec", guest, "--", "readlink", "/dev/xvda")
    base = f"/local/domain/{guest}/device/vbd"
    lies = [("/d/null", "/dev/loop0"), ("/d/xvdz", "/dev/../etc/passwd"), ("/d/xen", "/dev/loop0"), ("", "/dev/loop1")]
    try:
        for number, (file, where) in enumerate(lies):
            yard.stage.store.write(f"{base}/{900 + number}/xenfs-file", file)
            yard.stage.store.write(f"{base}/{900 + number}/xenfs-device", where)
        script = "test -c /dev/null && test -d /dev/xen && ! test -e /dev/xvdz && readlink /dev/xvda"
        assert yard.stage.fine("exec", guest, "--", "sh", "-c", script) == f".host/{node}\n"
        assert yard.stage.fine(*twice) == f".host/{node}\n", "within one that has such a disk already"
    finally:
        for number in range(len(lies)):
            yard.stage.store.rm(f"{base}/{900 + number}")


def test_a_disk_larger_than_two_tebibytes(shared: Yard) -> None:
    image = shared.image(3 << 40, "huge")
    device = shared.attach(shared.guest(), f"{image},raw,xvda,rw")
    try:
        code = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
size = os.lseek(fd, 0, os.SEEK_END)
for at in (0, 1 << 41, size - 4096):
    os.pwrite(fd, at.to_bytes(8, "little") * 512, at)
os.fsync(fd)
assert all(os.pread(fd, 8, at) == at.to_bytes(8, "little") for at in (0, 1 << 41, size - 4096))
print(size)
"""
        assert int(python(code, str(shared.file(device)))) == 3 << 40
        with image.open("rb") as file:
            file.seek(1 << 41)
            assert file.read(8) == (1 << 41).to_bytes(8, "little")
    finally:
        shared.detach(device)


def test_sectors_of_4096_bytes(shared: Yard) -> None:
    need_loop()
    image = shared.image(64 * MiB, "large-sectors")
    host = LoopDevice(str(image), sector_size=4096, readonly=False)
    try:
        device = shared.attach(shared.guest(), f"{host.path},raw,xvda,rw")
        try:
            assert shared.stage.store.read(f"{device.backend_path}/sector-size") == b"4096"
            assert shared.stage.store.read(f"{device.backend_path}/sectors") == b"131072"
            assert python(ODD, str(shared.file(device)), host.path, str(64 * MiB), "11") == "ok\n"
            node = shared.node(device)
            assert run("blockdev", "--getss", "--getsize64", node).split() == ["4096", str(64 * MiB)]
            run("mkfs.ext4", "-q", node)
            run("e2fsck", "-fn", node)
        finally:
            shared.detach(device)
    finally:
        host.close()


READ_ONLY = """
import os, sys
print(open(sys.argv[1], "rb").read() == open(sys.argv[2], "rb").read())
try:
    os.open(sys.argv[1], os.O_RDWR)
except OSError as error:
    print(error.errno in (13, 30))
"""


def test_a_read_only_disk(shared: Yard) -> None:
    image = shared.image(8 * MiB, "constant")
    image.write_bytes(os.urandom(8 * MiB))
    before = image.read_bytes()
    device = shared.attach(shared.guest(), f"{image},raw,xvda,r")
    try:
        assert python(READ_ONLY, str(shared.file(device)), str(image)) == "True\nTrue\n"
        assert shared.stage.store.read(f"{device.backend_path}/info") == b"4"
    finally:
        shared.detach(device)
    assert image.read_bytes() == before


def test_a_cdrom_is_removable_and_read_only(shared: Yard) -> None:
    image = shared.image(MiB, "cd.iso")
    device = shared.attach(shared.guest(), f"{image},raw,xvdc,r,cdrom")
    assert shared.stage.store.read(f"{device.backend_path}/info") == b"7"
    shared.detach(device)


def test_a_full_host_gives_an_error_and_goes_on_when_there_is_room(shared: Yard, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a tmpfs needs root")
    run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path))
    try:
        (tmp_path / "filler").write_bytes(bytes(5 * MiB))
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(64 * MiB)
        device = shared.attach(shared.guest(), f"{image},raw,xvda,rw")
        file_path = str(shared.file(device))
        code = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    for at in range(0, 4 << 20, 1 << 16):
        os.pwrite(fd, b"x" * 65536, at)
    os.fsync(fd)
    print("fine")
except OSError as error:
    print(error.errno)
"""
        assert python(code, file_path) == "5\n", "EIO"
        (tmp_path / "filler").unlink()
        assert python(code, file_path) == "fine\n"
        shared.detach(device)
    finally:
        run("umount", str(tmp_path))


def test_a_disk_grows_while_it_is_connected(disk: tuple[Yard, Device, Path]) -> None:
    yard, device, image = disk
    yard.stage.fine("block-resize", str(device.domid), "xvda", "96M")
    assert image.stat().st_size == 96 * MiB
    assert yard.stage.store.read(f"{device.backend_path}/sectors") == str(96 * 2048).encode()
    until(lambda: run("stat", "-c", "%s", str(yard.file(device))) == f"{96 * MiB}\n", SECONDS)
    if yard.said(device, "xenfs-device"):
        until(lambda: run("blockdev", "--getsize64", yard.node(device)) == f"{96 * MiB}\n", SECONDS)
    code = "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR); print(os.pwrite(fd, bytes(4096), 95 << 20))"
    assert python(code, str(yard.file(device))) == "4096\n"


def test_what_is_discarded_takes_no_room(disk: tuple[Yard, Device, Path]) -> None:
    yard, device, image = disk
    file = str(yard.file(device))
    run("dd", "if=/dev/urandom", f"of={file}", "bs=1M", "count=16", "conv=notrunc,fsync", "status=none")
    used = image.stat().st_blocks
    assert used >= 16 * 2048
    run("fallocate", "--punch-hole", "--offset", str(MiB), "--length", str(8 * MiB), file)
    assert image.stat().st_blocks <= used - 8 * 2048
    assert python("import sys; print(any(open(sys.argv[1], 'rb').read()[1 << 20 : 9 << 20]))", file) == "False\n"
    with image.open("rb") as host:
        host.seek(MiB)
        assert not any(host.read(8 * MiB))


def test_an_image_that_qemu_knows(shared: Yard) -> None:
    need_tool("qemu-img", "qemu-utils")
    image = shared.folder / "image.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", str(image), "64M")
    device = shared.attach(shared.guest(), f"format=qcow2,vdev=xvda,access=rw,target={image}")
    data = os.urandom(MiB)
    (shared.folder / "data").write_bytes(data)
    try:
        file = str(shared.file(device))
        run(
            "dd", f"if={shared.folder / 'data'}", f"of={file}", "bs=64k", "seek=16", "conv=notrunc,fsync", "status=none"
        )
    finally:
        shared.detach(device)
    until(lambda: not shared.stage.pids("qemu-nbd"), SECONDS)
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(shared.folder / "raw"))
    assert (shared.folder / "raw").read_bytes() == bytes(MiB) + data + bytes(62 * MiB)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{0}/none,raw,xvda,rw", "there is no such file"),
        ("{0},raw,xvda,rw", "Is a directory"),
        ("/dev/null,raw,xvda,rw", "neither a file nor a block device"),
    ],
)
def test_what_is_no_disk_is_named(shared: Yard, tmp_path: Path, line: str, words: str) -> None:
    domid = shared.guest()
    said = shared.stage.fails("block-attach", str(domid), line.format(tmp_path))
    assert words in said, said
    assert shared.stage.fine("block-list", str(domid)).count("\n") == 1


def test_an_image_that_one_writes_is_no_other_device(shared: Yard) -> None:
    domid, image = shared.guest(), shared.image(MiB, "wanted")
    for first, second in (("rw", "rw"), ("rw", "r"), ("r", "rw")):
        device = shared.attach(domid, f"{image},raw,xvdb,{first}")
        said = shared.stage.fails("block-attach", str(domid), f"{image},raw,xvdc,{second}")
        assert f"{image}: another device has it" in said
        shared.detach(device)
    both = [shared.attach(domid, f"{image},raw,{name},r") for name in ("xvdb", "xvdc")]
    for device in both:
        shared.detach(device)


def test_a_disk_that_is_mounted_is_not_taken_away(disk: tuple[Yard, Device, Path]) -> None:
    need_loop()
    yard, device, image = disk
    run("mkfs.ext4", "-q", yard.node(device))
    with holding(yard.node(device), "echo hello > /mnt/file"):
        yard.stage.store.write(f"{device.backend_path}/online", "0")
        yard.stage.store.write(f"{device.backend_path}/state", "5")
        log = yard.stage.place.guest(device.domid) / "log"
        until(lambda: "is in use" in log.read_text(), SECONDS)
        assert yard.stage.states(device)[0] == 4
    until(lambda: yard.stage.states(device)[0] == 6, SECONDS)
    assert run("debugfs", "-R", "cat file", str(image)) == "hello\n", "what was written is on the disk"


def test_twenty_disks_come_and_go(shared: Yard) -> None:
    domid, image = shared.guest(), shared.image(8 * MiB, "revolving")

    def counts() -> tuple[object, ...]:
        frames = Path(shared.stage.point, "hypervisor/frames").read_text()
        return frames, len(list(Path(f"/proc/{shared.devd.pid}/fd").iterdir())), shared.leftover()

    device = shared.attach(domid, f"{image},raw,xvdb,rw")
    shared.detach(device)
    until(lambda: not shared.stage.pids("device/vbd/"), SECONDS)
    before = counts()
    for _ in range(20):
        shared.stage.mount.arm(120)
        shared.detach(shared.attach(domid, f"{image},raw,xvdb,rw"))
    until(lambda: counts() == before, SECONDS)
