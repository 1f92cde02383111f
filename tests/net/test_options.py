"""What a vif line of a configuration says, and what comes of it."""

from __future__ import annotations

import json
import re
import time

import pytest
from xl import kinds, spec

from tests.mounted.mount import until
from tests.net.test_recovery import reachable
from tests.net.town import Place, Town, fetch
from tests.toolstack.stage import SECONDS
from xenfs.abi.xenbus import XenbusState as S

pytestmark = pytest.mark.timeout(120)


def test_name_address_and_mtu(town: Town) -> None:
    guest = town.guest(",vifname=wire,mac=00:16:3E:aa:bb:cc,mtu=9000")
    assert "wire" in town.links()
    (card,) = json.loads(guest.run("ip", "-j", "link", "show", "eth0"))
    assert (card["address"], card["mtu"]) == ("00:16:3e:aa:bb:cc", 9000)
    assert json.loads(town.host.run("ip", "-j", "link", "show", "wire"))[0]["mtu"] == 9000
    town.host.run("ip", "link", "set", "xenbr0", "mtu", "9000")
    assert guest.ping(town.host.ipv4, 8900, 20, "whole") == 20


def test_a_rate_is_kept(town: Town) -> None:
    guest = town.guest(",rate=80Mb/s@10ms")
    began = time.monotonic()
    sent, taken = fetch(guest, town.host, guest.ipv4, 8)
    seconds = time.monotonic() - began
    assert sent == taken
    assert 8 * 8.4 / 80 * 0.8 < seconds < 20, "8 MiB at 80 Mbit/s take 0.84 s"


def test_routed_instead_of_bridged(town: Town) -> None:
    domid = len(town.stage.domids())
    guest = town.guest(f"script=vif-route,ip=192.0.2.{domid} 2001:db8::{domid},gatewaydev=xenbr0", up=False)
    assert json.loads(town.host.run("ip", "-j", "link", "show", "master", "xenbr0")) == []
    guest.run("ip", "address", "add", f"192.0.2.{domid}/24", "dev", "eth0")
    guest.run("ip", "link", "set", "eth0", "up")
    guest.run("ip", "route", "add", "default", "dev", "eth0")
    assert reachable(guest, town.host)
    assert reachable(town.host, Place(0, f"192.0.2.{domid}", ""))
    assert f"2001:db8::{domid} " in town.host.run("ip", "-6", "route", "show", "dev", "vif1.0")


def test_a_driver_domain_has_the_backend(town: Town) -> None:
    driver = town.stage.guest("driver", memory=16)
    town.stage.spawn_in(town.host.pid, "-m", "xenfs", "devd", "-F", "--domain", str(driver))
    guest = town.guest(f",bridge=xenbr0,backend={driver}")
    assert reachable(guest, town.host)
    assert town.stage.store.list(f"/local/domain/{driver}/backend/vif") == ("2",)


def test_without_a_control_ring_pages_are_mapped_for_each_packet(town: Town) -> None:
    domid = town.stage.guest(memory=16)
    wanted = kinds.parse("vif", "bridge=xenbr0", domid, 0, int)
    store, front = town.stage.store, wanted.device.frontend_path
    with_ring = f"{wanted.device.backend_path}/feature-ctrl-ring"
    spec.add(store, wanted)
    spec.wait_ready(store, wanted)
    town.stage.until_connected(wanted.device)
    store.write(with_ring, "0")  # the frontend believes it, and connects anew
    store.write(f"{front}/state", "1")
    until(lambda: town.stage.states(wanted.device) != (S.Connected, S.Connected), SECONDS)
    until(lambda: town.stage.states(wanted.device) == (S.Connected, S.Connected), SECONDS)
    keeper = town.stage.place.holder(f"{domid}/keeper.pid")
    assert keeper is not None
    guest = Place(keeper, f"10.50.0.{domid}", f"fd50::{domid:x}")
    town.address(guest)
    assert guest.ping(town.host.ipv4, 3000) == 20


def test_network_list(town: Town) -> None:
    town.guest(",mac=00:16:3e:00:00:07")
    said = town.stage.fine("network-list", "guest1").splitlines()
    assert said[0].split() == ["Idx", "BE", "Mac", "Addr.", "handle", "state", "evt-ch", "tx-/rx-ring-ref", "BE-path"]
    assert re.fullmatch(r"0 +0 +00:16:3e:00:00:07 +0 +4 +\d+ +\d+/\d+ +/local/domain/0/backend/vif/1/0", said[1])


def test_attached_and_detached_by_the_commands(town: Town) -> None:
    guest = town.guest()
    town.stage.fine("network-attach", "guest1", "mac=00:16:3e:00:00:09", "bridge=xenbr0")
    assert "vif1.1" in town.links()
    until(lambda: "eth1" in guest.run("ip", "-br", "link"), SECONDS)
    town.stage.fine("network-detach", "guest1", "00:16:3e:00:00:09")
    assert "vif1.1" not in town.links()
    until(lambda: "eth1" not in guest.run("ip", "-br", "link"), SECONDS)
    assert town.stage.fails("network-detach", "guest1", "7").endswith("domain 1 has no vif 7")
