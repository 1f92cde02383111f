"""What lines of xl.cfg say of USB controllers and devices."""

from __future__ import annotations

import pytest
from xl import usb
from xl.spec import DeviceSpec

from xenfs.commands.failure import Unable


def controller(text: str) -> DeviceSpec:
    return usb.parse(text, 3, 0, lambda name: {"driver": 7}.get(name, 0))


def test_a_controller_has_libxls_keys() -> None:
    made = controller("")
    assert (made.device.frontend_path, made.device.backend_path) == (
        "/local/domain/3/device/vusb/0", "/local/domain/0/backend/vusb/3/0",
    )  # fmt: skip
    assert dict(made.back) == {
        "type": "pv", "usb-ver": "2", "num-ports": "8", "port": "", **{f"port/{port}": "" for port in range(1, 9)},
    }  # fmt: skip


def test_what_a_line_says_counts() -> None:
    made = controller("type=qusb, version=1, ports=31, controller=5, backend=driver")
    assert (made.device.id, made.device.backend_domid) == (5, 7)
    assert made.device.backend_path == "/local/domain/7/backend/qusb/3/5"
    assert (made.back["type"], made.back["usb-ver"], made.back["num-ports"]) == ("qusb", "1", "31")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ports=0", "ports is a number from 1 to 31"), ("ports=32", "ports"), ("version=3", "version"),
        ("version=x", "version"), ("type=devicemodel", "type is one of"), ("color=red", "unknown key color"),
        ("controller=99999", "controller"), ("ports=1,ports=2", "ports twice"),
    ],
)  # fmt: skip
def test_a_controller_that_cannot_be_is_named(text: str, said: str) -> None:
    with pytest.raises(Unable, match=said):
        controller(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("device=stick:/a,ro", ("stick:/a,ro", None, None)),
        ("controller=1,port=2,device=usbip:host:3240/1-1", ("usbip:host:3240/1-1", 1, 2)),
        ("type=hostdev, port=4, device=1-2.3", ("1-2.3", None, 4)),
        ("device=keyboard:/tmp/a=b,c", ("keyboard:/tmp/a=b,c", None, None)),
    ],
)
def test_a_device_stands_last_and_may_have_commas(text: str, found: tuple[str, int | None, int | None]) -> None:
    assert usb.parse_device(text) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs hostbus= and hostaddr=, or device="), ("hostbus=1", "needs"), ("device=", "device= is"),
        ("port=0,device=a:b", "port is a number from 1 to 31"), ("type=usb,device=a:b", "the one type is hostdev"),
        ("hostbus=1,hostaddr=200", "hostaddr is a number from 1 to 127"), ("what=1,device=a:b", "unknown key what"),
        ("hostbus=1,hostaddr=77", "no USB device at bus 1, address 77"), ("device=a:\x07", "device= is"),
    ],
)  # fmt: skip
def test_a_device_that_cannot_be_is_named(text: str, said: str) -> None:
    with pytest.raises(Unable, match=said):
        usb.parse_device(text)


def filled(*texts: str, controllers: tuple[str, ...] = ()) -> dict[tuple[int, int], str]:
    found = usb.fill([controller(text) for text in controllers], texts, 3)
    return {
        (spec.device.id, port): spec.back[f"port/{port}"]
        for spec in found
        for port in range(1, int(spec.back["num-ports"]) + 1)
        if spec.back[f"port/{port}"]
    }


def test_devices_go_where_they_say_or_where_there_is_room() -> None:
    assert filled("device=a:1", "port=1,device=b:2", "device=c:3", controllers=("ports=2", "ports=2,controller=4")) == {
        (0, 1): "a:1", (4, 1): "b:2", (0, 2): "c:3",
    }  # fmt: skip


def test_a_guest_with_devices_and_no_controller_gets_one() -> None:
    assert filled("device=a:1") == {(0, 1): "a:1"}
    assert filled() == {}


@pytest.mark.parametrize("texts", [("controller=2,device=a:1",), ("port=9,device=a:1",), ("port=1,device=a:1",) * 2])
def test_where_there_is_no_room_is_named(texts: tuple[str, ...]) -> None:
    with pytest.raises(Unable, match="no such port of it that is free"):
        filled(*texts)
