"""The vif's part of the store and its states, against what xl and Linux wrote on real Xen (tests/clients/golden)."""

from __future__ import annotations

import os
import re
import signal

import pytest
from xl import spec, toolstack

from tests.mounted.mount import until
from tests.net.conftest import BOTH_WAYS
from tests.net.town import Town
from tests.toolstack.stage import SECONDS
from tests.toolstack.states import in_order, states
from tests.toolstack.test_tree import golden, whole
from xenfs.abi.xenbus import XenbusState as S
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus import Device

pytestmark = pytest.mark.timeout(120)
MAC = "mac=00:16:3e:00:00:01"
DEVICE = Device("vif", 1, 0)
DIRECTORIES = (DEVICE.frontend_path, DEVICE.backend_path, DEVICE.libxl_path)

NOT_OURS = {
    r".*/(feature-)?xdp-headroom": "there is no XDP here",
    r".*/feature-(dynamic-)?multicast-control": "netback filters no multicast",
    r".*/device/vif/0/multi-queue-num-queues": "written when more than one queue is offered, and one is",
}
ANOTHER_VALUE = {
    r".*/(tx|rx)-ring-ref": "the numbers of grants",
    r".*/event-channel-(tx|rx)": "and of ports",
    r".*/multi-queue-max-queues": "one: a driver is one process",
}
ONLY_OURS = {
    r".*/ctrl-ring-ref": "Linux has no control ring in its frontend",
    r".*/event-channel-ctrl": "likewise",
}


FLIPPED = {
    r".*/feature-rx-flip": "netback offers it where the vif's line says so; Linux no longer does",
    r".*/request-rx-copy": "and then netfront asks for it",
}
FLIPPED_ONLY_OURS = {r".*/rx": "the key of the vif's line"}


def matches(path: str, patterns: dict[str, str]) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in patterns)


@BOTH_WAYS
def test_keys_values_and_permissions_are_those_of_xl_and_linux(town: Town) -> None:
    another, only = (FLIPPED, FLIPPED_ONLY_OURS) if town.rx == "flip" else ({}, {})
    town.guest(f",{MAC}")
    ours = {path: node for directory in DIRECTORIES for path, node in whole(town.stage.store, directory)}
    below = tuple(f"{directory}/" for directory in DIRECTORIES)
    theirs = {path: node for path, node in golden("tree-2-connected.txt").items() if path.startswith(below)}
    assert len(theirs) > 50
    missing = {p for p in theirs if p not in ours}
    assert {p for p in missing if not matches(p, NOT_OURS)} == set()
    assert all(any(re.fullmatch(pattern, p) for p in missing) for pattern in NOT_OURS), "each exception is one"
    more = {p for p in ours if p not in theirs and p not in DIRECTORIES}
    assert {p for p in more if not matches(p, ONLY_OURS | only)} == set()
    different = {p for p in theirs if p in ours and ours[p] != theirs[p]}
    assert {p for p in different if not matches(p, ANOTHER_VALUE | another)} == set()
    assert all(ours[p][1] == theirs[p][1] for p in theirs if p in ours), "permissions"


def test_states_as_a_frontend_leaves_and_comes_back(town: Town) -> None:
    town.guest(f",{MAC}")
    with states(town.stage, DEVICE) as seen:
        os.kill(town.front(1), signal.SIGTERM)
        town.stage.until_states(DEVICE, S.Closed, S.Closed)
    assert seen[-1] == "BE 6"
    assert in_order(seen, ["FE 5", "BE 5", "FE 6", "BE 6"]), seen
    with states(town.stage, DEVICE) as seen:
        with MountedDomain(1, town.stage.point) as guest:
            guest.store.write("device/vif/0/state", "1")
        town.stage.until_connected(DEVICE)
    assert seen[-1] == "BE 4"
    assert in_order(seen, ["FE 1", "BE 2", "FE 4", "BE 4"]), seen


def test_states_as_the_toolstack_detaches(town: Town) -> None:
    town.guest(f",{MAC}")
    with states(town.stage, DEVICE) as seen:
        assert spec.detach(town.stage.store, [DEVICE]) == []
    assert in_order(seen, ["BE 5", "FE 6", "BE 5", "BE 6"]), seen
    until(lambda: not town.stage.pids("device/vif"), SECONDS)


def test_states_as_a_guest_is_destroyed(town: Town) -> None:
    town.guest(f",{MAC}")
    with states(town.stage, DEVICE) as seen:
        toolstack.destroy(town.stage.root, town.stage.point, 1)
    assert in_order(seen, ["FE 5", "FE 6", "BE 5", "BE 5", "BE 6"]), seen
