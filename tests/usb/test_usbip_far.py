"""A server on a machine that is not there any more."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from xenusb import remote
from xenusb.descriptors import Setup
from xenusb.device import Transfer
from xenusb.remote import RemoteDevice
from xenusb.usbip import OP, VERSION, Exported, Op

from tests.net.namespaces import namespace, need_network, run
from tests.usb.port import Port
from tests.usb.vhci import joined
from xenfs.abi.usbif import PipeType

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(os.geteuid() != 0, reason="networks of their own are root's only"),
]
HERE, THERE = "10.77.0.1", "10.77.0.2"
DEVICE = Exported("/far", "1-1", 1, 1, 3, 0x1209, 1, 1, (0, 0, 0), 1, 1)


class Far(Port):
    """With a device of a server in another network, which takes what it is asked and says nothing."""

    def __init__(self, held: ExitStack) -> None:
        super().__init__()
        held.callback(self.close)
        self.here = False
        ours, self.theirs = (held.enter_context(namespace()) for _ in range(2))
        run(ours, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", str(self.theirs))
        for space, link, address in ((ours, "v0", HERE), (self.theirs, "v1", THERE)):
            run(space, "ip", "address", "add", f"{address}/24", "dev", link)
            run(space, "ip", "link", "set", link, "up")
        listener = held.enter_context(joined(self.theirs, lambda: socket.create_server((THERE, 3240))))
        server = threading.Thread(target=lambda: held.enter_context(self._serve(listener)))
        server.start()
        self.far = joined(ours, lambda: RemoteDevice(f"{THERE}/1-1", self))
        held.callback(self.far.close)
        self.until(lambda: self.here)
        server.join()

    @staticmethod
    def _serve(listener: socket.socket) -> socket.socket:
        connection = listener.accept()[0]
        connection.recv(1024)
        connection.sendall(OP.pack(VERSION, Op.import_reply, 0) + DEVICE.emit())
        return connection

    def arrived(self) -> None:
        self.here = True


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    need_network()
    monkeypatch.setattr(remote, "SILENT_SECONDS", 4)
    with ExitStack() as held:
        yield Far(held)


@pytest.mark.parametrize("asked", [False, True])
def test_a_device_whose_machine_is_not_there_any_more_is_gone(far: Far, *, asked: bool) -> None:
    run(far.theirs, "ip", "link", "set", "v1", "down")
    if asked:
        far.far.submit(Transfer(PipeType.control, 0, False, 0, [], lambda _: None, Setup(0, 9, 1)))
    far.until(lambda: bool(far.gone))
    assert far.gone[0].endswith("timed out") or "No route" in far.gone[0]
