"""Packets without number by flipped pages: whoever owned how much before owns it afterwards."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from xl import spec

from tests.mounted.mount import until
from tests.net.conftest import Neighbours
from tests.net.town import Town, iperf
from tests.toolstack.stage import SECONDS
from xenfs.xenbus import Device

PACKETS = int(os.environ.get("XENFS_PACKETS", "50000"))
"""XENFS_PACKETS=1000000 for longer."""
pytestmark = pytest.mark.timeout(120 + PACKETS // 2000)


def frames(town: Town) -> str:
    return Path(town.stage.point, "hypervisor/frames").read_text()


@pytest.mark.parametrize("town", ["flip"], indirect=True)
def test_after_many_packets_both_domains_own_what_they_did(town: Town) -> None:
    town.stage.mount.arm(120 + PACKETS / 2000)
    domid = town.stage.guest(memory=16)
    before = frames(town)
    device = town.attach(domid)
    place = town.place(domid)
    town.address(place)
    begun = town.front_stats(domid).units_in
    while town.front_stats(domid).units_in < begun + PACKETS:
        iperf(town.host, place, town.host.ipv4, "-R", "-u", "-b", "0", "-l", "1472", seconds=2)
    said = town.front_stats(domid)
    assert said.pages_flipped >= PACKETS
    assert said.errors == said.drop_malformed == 0
    assert town.back_stats(domid).errors == town.back_stats(domid).drop_no_memory == 0
    print(f"{said.units_in} packets, {said.pages_flipped} pages", file=sys.stderr)
    assert spec.detach(town.stage.store, [device]) == []
    until(lambda: frames(town) == before, SECONDS)


def test_what_can_be_seen_of_a_flip(neighbours: Neighbours) -> None:
    """In the store, in hypervisor/frames, in the trace, and in the drivers' counters."""
    town, flips = neighbours.town, neighbours.town.rx == "flip"
    device = Device("vif", 1, 0)
    assert town.stage.store.read(f"{device.backend_path}/feature-rx-flip") == (b"1" if flips else b"0")
    assert town.stage.store.read(f"{device.frontend_path}/request-rx-copy") == (b"0" if flips else b"1")
    before = town.front_stats(1).pages_flipped
    neighbours.first.run("ping", "-q", "-c", "3", "-i", "0.01", town.host.ipv4)
    if not flips:
        assert town.front_stats(1).pages_flipped == 0
        return
    until(lambda: town.front_stats(1).pages_flipped >= before + 3, SECONDS)
    in_flight = frames(town).splitlines()[2].split()[5]
    assert int(in_flight) >= 8
    trace = Path(town.stage.point, "hypervisor/trace").read_text()
    assert '"op": "transfer", "in": {"mfn":' in trace
    assert '"op": "end_transfer"' in trace
