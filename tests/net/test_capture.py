"""xenfs trace --pcap: the packets of a vif into a file, while they go."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounted.mount import until
from tests.need import need_tool
from tests.net.test_recovery import connected, end
from tests.net.town import Town
from tests.toolstack.stage import SECONDS

pytestmark = pytest.mark.timeout(120)


def start(town: Town, file: Path | str, device: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "xenfs", "trace", "--pcap", str(file), device]
    return subprocess.Popen(words, env=town.stage.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def until_written(path: Path, size: int = 1) -> None:
    until(lambda: path.exists() and path.stat().st_size >= size, SECONDS)


def test_a_capture_is_read_by_tcpdump_and_ends_with_ctrl_c(town: Town, tmp_path: Path) -> None:
    tcpdump = need_tool("tcpdump", "tcpdump")
    guest, path = town.guest(), tmp_path / "file"
    capture = start(town, path, "guest1/0")
    until_written(path)
    assert guest.ping(town.host.ipv4, 1000, 3) == 3
    until_written(path, 6 * 1042)
    end(town.back(1))  # the next netback goes on with it
    until(lambda: len(town.stage.pids("backend/vif/1")) == 1, SECONDS)
    until(lambda: connected(town, 1), SECONDS)  # what is in the ring of one that died is lost, as on any cable
    size = path.stat().st_size
    assert guest.ping(town.host.ipv4, 1000, 3) == 3
    until_written(path, size + 6 * 1042)
    capture.send_signal(signal.SIGINT)
    assert capture.communicate(timeout=20) == (b"", b"")
    assert capture.returncode == 0
    said = subprocess.run([tcpdump, "-nr", str(path)], capture_output=True, text=True, check=False).stdout
    assert said.count("ICMP echo request") == said.count("ICMP echo reply") == 6
    assert not town.stage.store.exists("/local/domain/0/backend/vif/1/0/capture")
    town.attach(1, number=1)


def test_into_a_pipe_whose_reader_has_seen_enough(town: Town) -> None:
    guest = town.guest()
    capture = start(town, "-", "vif/1/0")
    assert capture.stdout is not None
    assert capture.stdout.read(4) == bytes.fromhex("0a0d0d0a")
    capture.stdout.close()
    until(lambda: bool(guest.run("ping", "-q", "-c", "1", town.host.ipv4)) and capture.poll() is not None, SECONDS)
    assert capture.returncode == 0
    assert capture.stderr is not None
    assert capture.stderr.read() == b""
    capture.stderr.close()


def test_what_is_not_there_is_told(town: Town) -> None:
    town.guest()
    for device, words in (
        ("guest1/7", "domain guest1 has no vif 7"),
        ("vbd/1/0", "domain 1 has no vbd 0"),
        ("nobody", "'nobody': a device is called DOMID/N or KIND/DOMID/N, as vif/1/0"),
    ):
        assert town.stage.fails("trace", "--pcap", "-", device) == f"xenfs trace: {words}"
