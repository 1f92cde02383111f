"""xenfs device-list and device-attach, of kinds that there are and of others."""

from __future__ import annotations

import pytest

from tests.toolstack.stage import Stage
from xenfs.xenbus import Device

pytestmark = pytest.mark.timeout(110)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("vif", {"tx-ring-ref": 8, "rx-ring-ref": 9, "event-channel-tx": 3, "event-channel-rx": 4}),
        ("vif", {"tx-ring-ref": 8, "rx-ring-ref": 9, "event-channel": 3}),
        ("vusb", {"conn-ring-ref": 9, "urb-ring-ref": 8, "event-channel": 3}),
        ("vbd", {"ring-ref0": 8, "ring-ref1": 9, "event-channel": 3}),
        ("echo", {"ping-ring-ref": 8, "event-channel-ping": 3}),
    ],
)
def test_the_first_ring_and_the_first_channel_are_shown(stage: Stage, kind: str, keys: dict[str, int]) -> None:
    device = Device(kind, 1, 0)
    (stage.mount.root / "domains" / "1").mkdir()
    stage.store.write(f"{device.libxl_path}/backend", device.backend_path)
    for name, value in keys.items():
        stage.store.write(f"{device.frontend_path}/{name}", str(value))
    assert stage.fine("device-list", kind, "1").splitlines()[1].split()[4:6] == ["3", "8"]


@pytest.mark.parametrize("command", ["device-list", "device-attach"])
def test_a_kind_that_there_is_not_is_refused_with_those_that_there_are(stage: Stage, command: str) -> None:
    (stage.mount.root / "domains" / "1").mkdir()
    said = stage.fails(command, "nokind", "1")
    assert said == f"xenfs {command}: nokind: not one of echo, qusb, vbd, vif, vusb"
