"""Endpoints of every emulated device: when there are any, and what ends what waits at one, or halts it."""

from __future__ import annotations

from pathlib import Path

import pytest
from xenusb.descriptors import TO_DEVICE, TO_ENDPOINT, Ask
from xenusb.gadget import Gadget

from tests.usb.gadgets import DEVICES, ends_of, use_ends, waiting
from tests.usb.port import HALT, Port, descriptors
from xenfs.abi.usbif import PipeType, Status


def test_there_are_no_endpoints_without_a_configuration(port: Port, gadget: Gadget) -> None:
    for end in ends_of(gadget):
        assert port.submit(end.type, end.number, 8 if end.inward else b"abc").status is Status.inval
        assert port.control(TO_ENDPOINT, Ask.get_status, 0, end.address, 2).status is Status.stall
    use_ends(port, gadget)
    port.tell(TO_DEVICE, Ask.set_configuration, 0)
    for end in ends_of(gadget):
        assert port.submit(end.type, end.number, 8 if end.inward else b"abc").status is Status.inval


def test_another_endpoint_type_or_direction_is_refused(port: Port, gadget: Gadget) -> None:
    use_ends(port, gadget)
    addresses = {end.address for end in ends_of(gadget)}
    for end in ends_of(gadget):
        for kind in PipeType:
            if kind is not end.type:
                assert port.submit(kind, end.number, 8 if end.inward else b"abc").status is Status.inval
        if end.address ^ 0x80 not in addresses:
            assert port.submit(end.type, end.number, b"abc" if end.inward else 8).status is Status.inval
    for data in (8, b"abc"):
        assert port.submit(PipeType.bulk, 14, data).status is Status.inval


def test_what_is_cancelled_ends_once_and_alone(port: Port, gadget: Gadget) -> None:
    first, *others = waiting(port, gadget)
    gadget.cancel(first)
    gadget.cancel(first)
    assert (port.ended, first.status, first.actual) == ([first], Status.shutdown, 0)
    for transfer in reversed(others):
        gadget.cancel(transfer)
    assert port.ended == [first, *reversed(others)]


def test_cancelling_what_is_over_changes_nothing(port: Port, gadget: Gadget) -> None:
    transfer = port.control(TO_DEVICE, Ask.get_configuration, 0, 0, 1)
    gadget.cancel(transfer)
    assert (port.ended, transfer.status, transfer.actual) == ([transfer], Status.ok, 1)


def test_a_reset_ends_everything_and_leaves_the_device_as_just_plugged_in(port: Port, gadget: Gadget) -> None:
    found = waiting(port, gadget)
    gadget.reset()
    gadget.reset()
    port.settle()
    assert sorted(map(id, port.ended)) == sorted(map(id, found))
    assert {(transfer.status, transfer.actual) for transfer in found} == {(Status.shutdown, 0)}
    assert port.ask(TO_DEVICE, Ask.get_configuration, 0, 0, 1) == b"\0"
    again = waiting(port, gadget)
    gadget.reset()
    assert {transfer.status for transfer in again} == {Status.shutdown}


@pytest.mark.parametrize("value", [0, 1])
def test_a_configuration_that_is_given_up_or_chosen_again_ends_everything(
    port: Port, gadget: Gadget, value: int
) -> None:
    found = waiting(port, gadget)
    port.tell(TO_DEVICE, Ask.set_configuration, value)
    assert sorted(map(id, port.ended[:-1])) == sorted(map(id, found))
    assert {transfer.status for transfer in found} == {Status.shutdown}


def test_unplugging_ends_everything(port: Port, gadget: Gadget) -> None:
    found = waiting(port, gadget)
    port.unplug()
    port.settle()
    assert sorted(map(id, port.ended)) == sorted(map(id, found))
    assert {transfer.status for transfer in found} == {Status.nodev}


def test_endpoints_answer_in_the_order_in_which_they_were_asked(port: Port, gadget: Gadget) -> None:
    found = waiting(port, gadget)
    port.unplug()
    for end in ends_of(gadget):
        asked = [transfer for transfer in found if transfer.address == end.address]
        assert [transfer for transfer in port.ended if transfer.address == end.address] == asked


def test_a_halted_endpoint_stalls_until_that_is_cleared(port: Port, gadget: Gadget) -> None:
    first, *others = waiting(port, gadget)
    port.tell(TO_ENDPOINT, Ask.set_feature, HALT, first.address)
    assert port.halted(first.address)
    for transfer in (first, *others):
        assert (transfer.status is Status.stall) is (transfer.address == first.address)
        assert transfer.over is (transfer.address == first.address)
    assert port.submit(first.type, first.endpoint, 64).status is Status.stall
    port.clear(first.address)
    assert not port.halted(first.address)
    again = port.submit(first.type, first.endpoint, 64)
    assert not again.over
    gadget.cancel(again)


def test_a_configuration_begins_without_halts(port: Port, gadget: Gadget) -> None:
    use_ends(port, gadget)
    for end in ends_of(gadget):
        port.tell(TO_ENDPOINT, Ask.set_feature, HALT, end.address)
    use_ends(port, gadget)
    assert not any(port.halted(end.address) for end in ends_of(gadget))


def test_other_features_and_other_endpoints_are_stalled(port: Port, gadget: Gadget) -> None:
    use_ends(port, gadget)
    address = ends_of(gadget)[0].address
    for ask in (Ask.set_feature, Ask.clear_feature):
        for feature, index in ((1, address), (HALT, 0x0E), (HALT, 0x8E)):
            assert port.control(TO_ENDPOINT, ask, feature, index).status is Status.stall
        port.tell(TO_ENDPOINT, ask, HALT, 0)
    assert not port.halted(address)
    assert not port.halted(0)


@pytest.mark.parametrize("name", DEVICES)
def test_descriptors_are_given_back_when_it_is_unplugged(port: Port, tmp_path: Path, name: str) -> None:
    make, argument = DEVICES[name]
    said, before = argument(tmp_path), descriptors()
    for _ in range(3):
        waiting(port, port.plug(make, said))
        port.settle()
        port.unplug()
        port.settle()
    assert descriptors() == before
