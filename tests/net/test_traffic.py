"""Real traffic through netfront and netback, between two guests and between a guest and the host."""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from xennet.headers import fold, parse, partial_checksum, transport_sum

from tests.mounted.mount import until
from tests.net.conftest import Neighbours
from tests.net.namespaces import listening
from tests.net.town import fetch, iperf

pytestmark = pytest.mark.timeout(120)
MTU, TCP = 1500, 6
SOL_PACKET, PACKET_AUXDATA, TP_STATUS_CSUMNOTREADY = 263, 8, 8


def test_of_a_thousand_pings_none_is_lost(neighbours: Neighbours) -> None:
    assert neighbours.first.ping(neighbours.second.ipv4, count=1000) == 1000


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("size", [56, 1472 - 20, 20000, 60000])
def test_pings_of_every_size_come_back(neighbours: Neighbours, six: bool, size: int) -> None:
    host, first, second = neighbours.town.host, neighbours.first, neighbours.second
    for source, target in ((first, second), (first, host), (host, second)):
        address = target.ipv6 if six else target.ipv4
        assert source.ping(address, size) == 20


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("reverse", [False, True], ids=["there", "back"])
@pytest.mark.parametrize("where", ["guest", "host"])
def test_tcp_in_segments_larger_than_the_mtu(neighbours: Neighbours, where: str, reverse: bool, six: bool) -> None:
    server = neighbours.second if where == "guest" else neighbours.town.host
    before = neighbours.town.front_stats(1)
    words = ["-R"] if reverse else []
    said = iperf(server, neighbours.first, server.ipv6 if six else server.ipv4, *words)
    assert said["sum_received"]["bytes"] > 200_000

    def counted() -> bool:
        after = neighbours.town.front_stats(1)
        size = after.bytes_in - before.bytes_in if reverse else after.bytes_out - before.bytes_out
        packets = after.units_in - before.units_in if reverse else after.units_out - before.units_out
        return size > said["sum_received"]["bytes"] and size / max(1, packets) > 4 * MTU

    until(counted)


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("reverse", [False, True], ids=["there", "back"])
@pytest.mark.parametrize("where", ["guest", "host"])
def test_udp(neighbours: Neighbours, where: str, reverse: bool, six: bool) -> None:
    server = neighbours.second if where == "guest" else neighbours.town.host
    # so slow that whoever receives does not lose anything when he has to wait for a processor
    words = ["-u", "-b", "2M", "-l", "1200", *(["-R"] if reverse else [])]
    said = iperf(server, neighbours.first, server.ipv6 if six else server.ipv4, *words)["sum"]
    assert said["packets"] > 100
    assert said["lost_packets"] < said["packets"] / 20


def test_a_file_by_http_is_the_same(neighbours: Neighbours, tmp_path: Path) -> None:
    data = os.urandom(8 << 20)
    (tmp_path / "file").write_bytes(data)
    words = ("-u", "-m", "http.server", "--bind", "::", "--directory", str(tmp_path), "8080")
    server = neighbours.second.start(*words)
    program = (
        "import sys, hashlib, urllib.request\n"
        "said = urllib.request.urlopen(sys.argv[1], timeout=20).read()\n"
        "print(hashlib.sha256(said).hexdigest())\n"
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("Serving HTTP")
        for client in (neighbours.first, neighbours.town.host):
            for address in (neighbours.second.ipv4, f"[{neighbours.second.ipv6}]"):
                got = client.run(sys.executable, "-c", program, f"http://{address}:8080/file")
                assert got.strip() == hashlib.sha256(data).hexdigest()
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_every_byte_arrives_in_both_directions(neighbours: Neighbours, six: bool) -> None:
    first, second, host = neighbours.first, neighbours.second, neighbours.town.host
    for server, client in ((first, second), (second, host), (host, first)):
        sent, taken = fetch(server, client, server.ipv6 if six else server.ipv4, 64)
        assert sent == taken


def test_packets_no_larger_than_the_mtu_when_the_guest_makes_no_segments(neighbours: Neighbours) -> None:
    first, town = neighbours.first, neighbours.town
    before = town.front_stats(1)
    first.run("ip", "link", "set", "eth0", "gso_max_segs", "1")
    try:
        sent, taken = fetch(first, neighbours.second, first.ipv4, 16)
    finally:
        first.run("ip", "link", "set", "eth0", "gso_max_segs", "65535")
    assert sent == taken
    until(lambda: town.front_stats(1).bytes_out - before.bytes_out > 16 << 20)
    after = town.front_stats(1)
    assert (after.bytes_out - before.bytes_out) / (after.units_out - before.units_out) <= MTU + 14


def test_checksums_are_right_or_still_to_be_made(neighbours: Neighbours) -> None:
    """What leaves netfront for the guest, as its kernel takes it: whole and right, or marked as not made yet."""
    first, second = neighbours.first, neighbours.second
    seen = {"right": 0, "partial": 0}
    with listening(first.pid, "eth0") as heard:
        heard.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        said = iperf(second, first, second.ipv4, "-R")
        assert said["sum_received"]["bytes"] > 1_000_000
        fetch(second, first, second.ipv4, 1)
        heard.settimeout(0.2)
        with suppress(TimeoutError):
            while sum(seen.values()) < 3000:
                data, extra, _, _ = heard.recvmsg(1 << 17, 64)
                status = int.from_bytes(extra[0][2][:4], "little")
                found = parse(data)
                if found is None or found.protocol != TCP:
                    continue
                if status & TP_STATUS_CSUMNOTREADY:
                    assert int.from_bytes(data[found.l4 + 16 : found.l4 + 18], "big") == partial_checksum(data, found)
                    seen["partial"] += 1
                else:
                    assert transport_sum(data, found) == 0xFFFF
                    seen["right"] += 1
    assert sum(seen.values()) > 100


def test_checksums_that_no_offload_knows_are_right_on_the_host(neighbours: Neighbours) -> None:
    first, host = neighbours.first, neighbours.town.host
    with listening(host.pid, "vif1.0") as heard:
        assert first.ping(host.ipv4, 300) == 20
        heard.settimeout(1)
        checked = 0
        with suppress(TimeoutError):
            while checked < 40:
                data = heard.recv(1 << 17)
                if data[12:14] == b"\x08\x00" and data[23] == 1:
                    assert fold(data[14:34]) == 0xFFFF
                    assert fold(data[34:]) == 0xFFFF
                    checked += 1
    assert checked == 40
