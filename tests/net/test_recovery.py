"""Either end killed again and again under traffic, and cards that come and go: traffic goes on and nothing is left."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from xl import kinds, spec

from tests.mounted.mount import until
from tests.net.conftest import BOTH_WAYS
from tests.net.namespaces import listening
from tests.net.town import Place, Town
from tests.toolstack.stage import SECONDS
from xenfs.xenbus import Device

UNDER_WAY = 3
"""Pings that may be under way when ping is ended, which it counts as lost."""
KILLS = int(os.environ.get("XENFS_KILLS", "16"))
pytestmark = pytest.mark.timeout(120 + 4 * KILLS)
_POUR = "import sys; from xl.demo.pour import serve; print(serve(7200, int(sys.argv[1])), flush=True)"


def end(pid: int) -> None:
    """kill -9, and wait for the end."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], SECONDS)[0]
    finally:
        os.close(pidfd)


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def counts(town: Town) -> tuple[object, ...]:
    """All that could leak: what devd, the daemon and the supervisors hold, and what the machine counts."""
    stage = town.stage
    frames = [line.split()[1:6] for line in Path(stage.point, "hypervisor/frames").read_text().splitlines()[1:-1]]
    if town.rx == "flip":  # how many offers are open depends on the traffic; for each, a page was given back
        frames = [[state, str(int(owned) + int(offers)), *rest] for state, owned, *rest, offers in frames]
    ports = [len(list(Path(stage.point, f"domains/{domid}/evtchn").iterdir())) for domid in stage.domids()]
    supervisors = [descriptors(pid) for pid in stage.pids("xl.guest")]
    drivers = len(stage.pids("device/")), len(stage.pids("backend/"))
    return descriptors(town.devd.pid), descriptors(stage.mount.pid), supervisors, frames, ports, drivers, town.links()


def connected(town: Town, guest: int) -> bool:
    front, back = town.stage.states(Device("vif", guest, 0))
    with suppress(FileNotFoundError):  # a driver that has just started has none
        return front == back == 4 and town.back_stats(guest).reconnects > 0
    return False


def until_counts(town: Town, before: tuple[object, ...]) -> None:
    with suppress(AssertionError):
        until(lambda: counts(town) == before, SECONDS / 4)
    assert counts(town) == before


@BOTH_WAYS
def test_kill_9_of_either_end_under_traffic(town: Town) -> None:
    first, second = town.guest(), town.guest()
    before = counts(town)
    server = first.start("-c", _POUR, "1000000")  # more than will be sent
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    sink = second.start("-m", "xl.demo.pour", "fetch", first.ipv4, "7200")
    try:
        for number in range(KILLS):
            town.stage.mount.arm(120)
            moved = town.front_stats(2).bytes_in
            until(lambda moved=moved: town.front_stats(2).bytes_in > moved + (1 << 20), SECONDS)  # type: ignore[misc]
            victim, other = (town.back, town.front) if number % 2 else (town.front, town.back)
            pid, kept = victim(1), other(1)
            end(pid)
            until(lambda: len(town.stage.pids("device/vif")) == len(town.stage.pids("backend/vif")) == 2, SECONDS)
            until(lambda: connected(town, 1), SECONDS)
            assert victim(1) != pid
            assert other(1) == kept, "the other end must not start anew"
        assert sink.poll() is None
        assert server.poll() is None
    finally:
        for process in (sink, server):
            process.kill()
            process.communicate()
    until_counts(town, before)


@BOTH_WAYS
def test_a_transfer_with_both_ends_killed_in_it_ends_with_the_right_checksum(town: Town) -> None:
    first, second = town.guest(), town.guest()
    size = 600
    server = first.start("-c", _POUR, str(size))
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    client = second.start("-m", "xl.demo.pour", "fetch", first.ipv4, "7200")
    begun = town.front_stats(2).bytes_in
    for number, victim in enumerate((town.back(1), town.front(1)), 1):
        until(lambda number=number: town.front_stats(2).bytes_in > begun + number * (100 << 20), SECONDS)  # type: ignore[misc]
        end(victim)
        until(lambda: len(town.stage.pids("device/vif")) == len(town.stage.pids("backend/vif")) == 2, SECONDS)
        until(lambda: connected(town, 1), SECONDS)
    taken = client.communicate(timeout=60)[0].split()
    sent = server.communicate(timeout=60)[0].split()
    assert (taken[0], taken[2]) == (sent[0], sent[2]) == (str(size << 20), taken[2])


@BOTH_WAYS
def test_twenty_cards_come_and_go_under_traffic(town: Town) -> None:
    first, second = town.guest(), town.guest()
    pinger = first.start("-c", f"import os; os.execvp('ping', ['ping', '-q', '-i', '0.01', '{second.ipv4}'])")
    try:
        before = counts(town)
        for _ in range(20):
            town.stage.mount.arm(120)
            device = town.attach(1, number=1)
            assert "vif1.1" in town.links()
            assert first.run("ip", "-br", "link", "show", "eth1")
            assert spec.detach(town.stage.store, [device]) == []
            assert "vif1.1" not in town.links()
        until_counts(town, before)
    finally:
        pinger.send_signal(signal.SIGINT)
        said = pinger.communicate(timeout=20)[0]
    sent, came = (int(word) for word in re.findall(r"(\d+) (?:packets transmitted|received)", said))
    assert sent - came <= UNDER_WAY < sent, said


@BOTH_WAYS
def test_a_guest_that_is_destroyed_leaves_no_card(town: Town) -> None:
    kept = town.guest()
    before = counts(town)[:2], town.links()
    town.guest()
    assert "vif2.0" in town.links()
    assert town.stage.xenfs("destroy", "2").returncode == 0
    until(lambda: (counts(town)[:2], town.links()) == before, SECONDS)
    assert reachable(kept, town.host)


def test_netback_killed_while_its_card_is_detached_leaves_nothing(town: Town) -> None:
    kept = town.guest()
    before = counts(town)
    device = town.attach(1, number=1)
    (pid,) = town.stage.pids("backend/vif/1/1")
    os.kill(pid, signal.SIGSTOP)
    town.stage.store.write(f"{device.backend_path}/online", "0")
    town.stage.store.write(f"{device.backend_path}/state", "5")
    end(pid)
    spec.remove(town.stage.store, device)
    until_counts(town, before)
    assert reachable(kept, town.host)


def reachable(source: Place, target: Place) -> bool:
    return "1 received" in source.run("ping", "-q", "-c", "1", "-W", "5", target.ipv4)


@pytest.mark.parametrize("who", ["front", "back"])
def test_the_network_is_told_where_the_card_is_after_a_driver_died(town: Town, who: str) -> None:
    guest = town.guest()
    with listening(town.host.pid, "vif1.0") as heard:
        end(town.front(1) if who == "front" else town.back(1))
        said = b""
        address = bytes(int(part) for part in guest.ipv4.split("."))
        while said[12:14] != b"\x08\x06" or said[28:32] != address or said[38:42] != address:
            said = heard.recv(1 << 16)
    assert said[:6] == b"\xff" * 6
    until(lambda: connected(town, 1), SECONDS)


@pytest.mark.parametrize("which", ["host", "guest"])
def test_an_interface_that_somebody_deletes_is_made_anew(town: Town, which: str) -> None:
    guest = town.guest()
    place, name = (town.host, "vif1.0") if which == "host" else (guest, "eth0")

    def index() -> str:
        with suppress(subprocess.CalledProcessError):
            return place.run("ip", "-o", "link", "show", name).split(":")[0]
        return ""

    before = index()
    place.run("ip", "link", "delete", name)
    until(lambda: index() not in ("", before), SECONDS)
    until(lambda: connected(town, 1), SECONDS)
    if which == "guest":
        town.address(guest)
    assert reachable(guest, town.host)


def test_the_vif_is_gone_at_closed_also_when_the_netback_that_made_it_is_dead(town: Town) -> None:
    town.guest()
    device, store = Device("vif", 1, 0), town.stage.store
    back = town.back(1)
    os.kill(back, signal.SIGSTOP)
    store.write(f"{device.backend_path}/online", "0")
    end(back)  # it has not seen that it is to go: that is for the next, which never had the vif
    until(lambda: store.read(f"{device.backend_path}/state") == b"6", SECONDS)
    assert "vif1.0" not in town.host.run("ip", "-o", "link")


def test_a_vif_in_the_place_of_another_is_not_the_one_that_a_dead_netback_has_left(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator gives a netback up that hangs, and kills it when there is another vif of its number already."""
    monkeypatch.setattr(spec, "DESTROY_SECONDS", 0.5)
    store = town.stage.store
    town.host.run("ip", "link", "add", "other", "type", "bridge")
    town.guest()
    back = town.back(1)
    os.kill(back, signal.SIGSTOP)
    assert spec.detach(store, [Device("vif", 1, 0)], destroy=True)
    wanted = kinds.parse("vif", "bridge=other", 1, 0, int)
    spec.add(store, wanted)
    end(back)
    spec.wait_ready(store, wanted)
    assert "master other" in town.host.run("ip", "-o", "link", "show", "vif1.0")
    town.host.run("ip", "link", "delete", "other")
