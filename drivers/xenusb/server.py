"""The guest's devices for its programs: USB/IP, on a Unix socket and, in a network of the guest's own, on loopback.

Whoever imports a device over TCP has all of it, as usbip has it: a kernel's vhci_hcd, say. On the Unix socket any
number of programs may have a device open, and each interface belongs to whoever has claimed it, as with usbfs.
"""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from xenfs.abi.usbif import PipeType, Status
from xenfs.domain.mounted.xen import default_root
from xenfs.sockets import Door, short
from xenfs.xenbus import Frontend
from xenfs.xenbus.loop import Gate
from xenfs.xenbus.process import OWN_NETWORK
from xenusb import usbip
from xenusb.descriptors import TO_ENDPOINT, TO_INTERFACE, Ask, Setup
from xenusb.device import Packet
from xenusb.hub import Attached, Hub
from xenusb.outbox import Outbox
from xenusb.remote import RESET_PORT
from xenusb.storage import interface_of
from xenusb.urbs import MOST, Urbs, Want
from xenusb.usbip import Asked, Code, Exported, Malformed, Op, Short, Submit, Submitted

SOCKET, ADDRESS = "xenfs-usb", "xenfs-usbip"
"""Keys of the frontend's: where the two are."""
_ROOM = 1 << 16
_MOST_CONNECTIONS = 128
_MOST_WAITING = 4 << 20
"""Bytes of answers that somebody does not take, before he is not asked for more questions."""
_MOST_FLYING, _MOST_BYTES = 1024, 16 << 20
"""Transfers of one connection, and their bytes."""
_SOON = 0.01
_PORTS = 32
"""Ports that are tried, for a guest with several controllers."""
_BUSY, _GONE, _NOT_FOUND, _TOO_MANY = -errno.EBUSY, -errno.ENODEV, -errno.ENOENT, -errno.ENOMEM


class Server:
    """Both sockets, and the connections that came in over them."""

    def __init__(self, end: Frontend, hub: Hub, urbs: Urbs, release: Callable[[Attached], None]) -> None:
        """Listen. `release` is told of a device that nobody has to himself any more. Raises OSError."""
        self.end, self.hub, self.urbs, self.release = end, hub, urbs, release
        self.connections: set[Connection] = set()
        known = Path(f"{default_root()}.run", str(end.domain.domid))
        self._folder = Path(tempfile.mkdtemp(prefix="usb-", dir=known if os.access(known, os.W_OK) else None))
        self._local = socket.socket(socket.AF_UNIX)
        with short(f"{self._folder}/{end.device.id}") as path:
            self._local.bind(path)
        self._listeners = [self._local]
        self._doors: list[Door] = []
        end.store.write(f"{end.path}/{SOCKET}", f"{self._folder}/{end.device.id}")
        if os.environ.get(OWN_NETWORK) and (public := self._public()) is not None:
            self._listeners.append(public)
            host, port = public.getsockname()
            end.store.write(f"{end.path}/{ADDRESS}", f"{host}:{port}")
        for listener in self._listeners:
            listener.setblocking(False)
            listener.listen(16)
            door = Door(listener)
            self._doors.append(door)
            end.loop.watch(listener.fileno(), partial(self._came, door, listener is self._local))

    @staticmethod
    def _public() -> socket.socket | None:
        """A socket at the first port from 3240 on that nobody has."""
        found = socket.socket(socket.AF_INET)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for port in range(usbip.PORT, usbip.PORT + _PORTS):
            with suppress(OSError):
                found.bind(("127.0.0.1", port))
                return found
        found.close()
        return None

    def _came(self, door: Door, local: bool) -> None:
        if (connection := door.accept()) is None:
            return
        try:
            if len(self.connections) >= _MOST_CONNECTIONS:
                raise OSError(errno.EMFILE, "too many connections")
            self.connections.add(Connection(self, connection, local=local))
        except OSError:
            connection.close()

    def bus_id(self, device: Attached) -> str:
        """What usbip calls a device."""
        return f"{self.end.device.id + 1}-{device.port}"

    def exported(self, device: Attached) -> Exported:
        """As it is listed."""
        about, found = device.device, device.configuration
        assert about is not None
        interfaces = [one for one in found.interfaces if not one.alternate] if found else []
        return Exported(
            f"/xen/vusb-{self.end.device.id}/{self.bus_id(device)}", self.bus_id(device), self.end.device.id + 1,
            device.address, int(device.speed), about.vendor, about.product, about.release,
            (about.klass, about.subclass, about.protocol), device.value, len(device.parsed),
            tuple((one.klass, one.subclass, one.protocol) for one in interfaces[:255]),
        )  # fmt: skip

    def listed(self) -> list[Attached]:
        """The devices that say what they are."""
        return [device for _, device in sorted(self.hub.devices.items()) if device.device is not None]

    def close(self) -> None:
        """Listen no more, and end every connection."""
        for listener in self._listeners:
            self.end.loop.unwatch(listener.fileno())
            listener.close()
        for door in self._doors:
            door.close()
        for connection in list(self.connections):
            connection.close()
        with suppress(OSError):
            Path(self._folder, str(self.end.device.id)).unlink()
            self._folder.rmdir()


def _resets(asked: Submit) -> bool:
    """Whether it is a reset of the device."""
    setup = Setup.parse(asked.setup)
    return not asked.endpoint and (setup.request_type, setup.request, setup.value) == RESET_PORT


class Connection:
    """Somebody who lists the devices, or uses one. Implements User of a device."""

    def __init__(self, server: Server, connection: socket.socket, *, local: bool) -> None:
        """Listen to what is asked."""
        self._server, self._socket, self._local = server, connection, local
        connection.setblocking(False)
        if not local:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = server.end.loop
        self._outbox = Outbox(loop, connection, lambda: self._guarded(self._drained))
        self._gate = Gate(loop, connection.fileno(), lambda: self._guarded(self._came))
        self._gate.open()
        self._head = bytearray()
        self._device: Attached | None = None
        self._asked = Asked()
        self._flying: dict[int, Want | None] = {}
        """None for those that cannot be taken back."""
        self._bytes = 0
        self._unlinks: dict[int, int] = {}
        self._behind: dict[tuple[int, bool], deque[Submit]] = {}
        """By endpoint that has a transfer in pieces: those that are not to overtake it."""
        """By the number of what is taken back: that of the request to do so."""
        self.closed = False
        """Whether it is over."""

    def _guarded(self, call: Callable[[], None]) -> None:
        """What goes wrong with a connection ends it, and nothing else."""
        try:
            call()
        except (OSError, Malformed) as error:
            if not isinstance(error, OSError):
                self._server.end.log(f"{self._server.end!r}: a usbip client: {error}")
            self.close()

    def _send(self, data: bytes) -> None:
        if not self.closed:
            self._guarded(lambda: self._outbox.send(data))
            self._throttle()

    def _throttle(self) -> None:
        """Whoever does not take answers is not asked for more questions."""
        if self.closed:
            return
        if self._outbox.size > _MOST_WAITING:
            self._gate.shut()
        else:
            self._gate.open()

    def _drained(self) -> None:
        self._outbox.push()
        self._throttle()

    def _came(self) -> None:
        data = self._socket.recv(_ROOM)
        if not data:
            self.close()
        elif self._device is None:
            self._head += data
            self._hear()
        else:
            self._do(data)

    def _hear(self) -> None:
        """What is asked before there is a device."""
        if len(self._head) < usbip.OP.size:
            return
        version, code, _ = usbip.OP.unpack_from(self._head)
        if version != usbip.VERSION or code not in (Op.list_request, Op.import_request):
            raise Malformed(f"operation 0x{code:x} in version {version:x}")
        if code == Op.list_request:
            if len(self._head) > usbip.OP.size:
                raise Malformed("something behind the request for a list, before its answer")
            self._head.clear()
            self._send(usbip.listing([self._server.exported(one) for one in self._server.listed()]))
            return
        total = usbip.OP.size + usbip.BUS_ID.size
        if len(self._head) < total:
            return
        (raw,) = usbip.BUS_ID.unpack_from(self._head, usbip.OP.size)
        del self._head[:total]
        self._import(raw.partition(b"\0")[0].decode("ascii", "replace"))

    def _import(self, bus_id: str) -> None:
        if self.closed:
            return
        device = next((one for one in self._server.listed() if self._server.bus_id(one) == bus_id), None)
        if device is not None and isinstance(device.whole, Connection) and device.whole.closed:
            self._gate.shut()  # it is being made ready for others
            self._server.end.loop.later(_SOON, partial(self._import, bus_id))
        elif device is None or device.whole is not None:
            self._imported(None)
        elif self._local:
            self._imported(device)
        else:
            self._take_whole(device)

    def _take_whole(self, device: Attached) -> None:
        """Have the drivers let go of it; a program keeps it."""
        owners = set(device.claims.values())
        drivers = [owner for owner in owners if not isinstance(owner, Connection)]
        if len(drivers) != len(owners):
            self._imported(None)
            return
        device.whole = self

        def said(words: str) -> None:
            if words == "busy" or self.closed:
                ready(Status.shutdown)
            else:
                self._renew(device, ready)

        def ready(status: Status) -> None:
            if status is Status.ok and not self.closed:
                self._imported(device)
            else:
                self._give_back(device)
                self._imported(None)

        self._gate.shut()
        if drivers:
            drivers[0].leave(said)
        else:
            self._imported(device)

    def _renew(self, device: Attached, then: Callable[[Status], None]) -> None:
        """Have it as just plugged in: whoever had it may have left it in the middle of something."""
        if device.parsed:
            device.value, device.settings = device.parsed[0].value, {}
        if device.lost or self._server.hub.devices.get(device.port) is not device:
            then(Status.ok)
        else:
            self._server.hub.reset(device, then)

    def _give_back(self, device: Attached) -> None:
        if device.whole is self:
            device.whole = None
        self._server.release(device)

    def _imported(self, device: Attached | None) -> None:
        found = b"" if device is None else self._server.exported(device).emit()
        self._device = device
        self._send(usbip.OP.pack(usbip.VERSION, Op.import_reply, 0 if device else 1) + found)
        if device is not None and self._head:
            rest = bytes(self._head)
            self._head.clear()
            self._guarded(lambda: self._do(rest))

    # Transfers.

    def _do(self, data: bytes) -> None:
        for asked in self._asked.feed(data):
            if self.closed:
                return
            if isinstance(asked, Submit):
                self._submit(asked)
            elif asked.code == Code.unlink:
                self._unlink(asked)
            elif self._local:
                self._own(asked)
            else:
                raise Malformed(f"command 0x{asked.code:x}, which is a local one")
        self._server.urbs.push()
        self._throttle()

    def _submit(self, asked: Submit) -> None:
        device = self._device
        assert device is not None
        if asked.number in self._flying:
            raise Malformed(f"transfer {asked.number} twice at once")
        if self._server.hub.devices.get(device.port) is not device:
            self._refuse(asked, _GONE)
        elif device.lost or not (device.address or _resets(asked)):  # address 0 is for whoever sets it up
            self._refuse(asked, Status.shutdown)
        elif len(self._flying) >= _MOST_FLYING or self._bytes + asked.size > _MOST_BYTES:
            self._refuse(asked, _TOO_MANY)
        elif not asked.endpoint:
            self._control(asked, device)
        else:
            self._transfer(asked, device)

    def _refuse(self, asked: Submit, status: int) -> None:
        self._send(Submitted(asked.number, status, 0).emit())

    def _control(self, asked: Submit, device: Attached) -> None:
        setup, hub = Setup.parse(asked.setup), self._server.hub
        value, number = setup.value & 0xFF, setup.index & 0xFF

        def change(call: Callable[[Callable[[Status], None]], None], number: int | None = None) -> None:
            if self._others(device, number):
                self._refuse(asked, _BUSY)
            else:
                self._flying[asked.number] = None
                call(over)

        def over(status: Status) -> None:
            del self._flying[asked.number]
            self._send(Submitted(asked.number, int(status), 0).emit())
            if (unlink := self._unlinks.pop(asked.number, None)) is not None:
                self._send(Short(Code.unlinked, unlink, 0).emit())

        if _resets(asked):
            change(partial(self._reset, device))
        elif setup.is_standard(Ask.set_configuration):
            change(partial(hub.set_configuration, device, value))
        elif setup.is_standard(Ask.set_interface, TO_INTERFACE):
            change(partial(hub.set_interface, device, number, value), number)
        elif setup.is_standard(Ask.set_address):
            self._refuse(asked, Status.stall)
        elif setup.is_standard(Ask.clear_feature, TO_ENDPOINT) and not self._may(device, setup.index & 0x8F):
            self._refuse(asked, _BUSY)
        else:
            size = min(asked.size, setup.length)
            want = Want(
                device.port, device.address, PipeType.control, 0, asked.inward, size, self._done(asked), setup,
                asked.data[:size],
            )  # fmt: skip
            self._fly(asked, want)

    def _reset(self, device: Attached, then: Callable[[Status], None]) -> None:
        self._take_back()  # also what the backend has not heard of yet
        self._server.hub.reset(device, then)

    def _take_back(self) -> None:
        for want in list(self._flying.values()):
            if want is not None:
                self._server.urbs.cancel(want)

    def _others(self, device: Attached, number: int | None) -> bool:
        """Whether somebody else has an interface of a device, or with None any of it."""
        owners = {owner for one, owner in device.claims.items() if number in (None, one)} | {device.whole}
        return bool(owners - {self, None})

    def _may(self, device: Attached, address: int) -> bool:
        """Whether an endpoint's interface is ours, or nobody's: then it becomes ours."""
        if device.whole is not None:
            return device.whole is self
        found = device.configuration
        for interface in found.interfaces if found else ():
            if any(end.address == address for end in interface.endpoints):
                return device.claims.setdefault(interface.number, self) is self
        return True

    def _transfer(self, asked: Submit, device: Attached) -> None:
        endpoint = device.endpoint(asked.endpoint | (0x80 if asked.inward else 0))
        if endpoint is None or endpoint.type is PipeType.control:
            self._refuse(asked, _NOT_FOUND)
            return
        if not self._may(device, endpoint.address):
            self._refuse(asked, _BUSY)
            return
        isoc = endpoint.type is PipeType.isoc
        packets = [Packet(one.offset, one.length) for one in asked.packets or ()]
        if isoc is (asked.packets is None) or any(one.offset + one.length > asked.size for one in packets):
            self._refuse(asked, Status.inval)
            return
        if (where := (asked.endpoint, asked.inward)) in self._behind:
            self._flying[asked.number] = None
            self._bytes += asked.size
            self._behind[where].append(asked)
            return
        if asked.size > MOST and not isoc:
            self._behind[where] = deque()
            self._pieces(asked, device, endpoint.type)
            return
        want = Want(
            device.port, device.address, endpoint.type, endpoint.number, endpoint.inward, asked.size,
            self._done(asked), data=asked.data, packets=packets, interval=asked.interval,
            whole=bool(asked.flags & usbip.SHORT_NOT_OK),
        )  # fmt: skip
        self._fly(asked, want)

    def _pieces(self, asked: Submit, device: Attached, kind: PipeType) -> None:
        """More than one request can have: one piece after the other, until one is short."""
        found: list[bytes] = []
        at = 0

        def begin() -> None:
            size = min(MOST, asked.size - at)
            data = asked.data[at : at + size]
            place = (device.port, device.address, kind, asked.endpoint, asked.inward)
            self._fly(asked, Want(*place, size, over, data=data, whole=bool(asked.flags & usbip.SHORT_NOT_OK)))
            self._server.urbs.push()

        def over(want: Want) -> None:
            nonlocal at
            at += want.actual
            found.append(want.data if asked.inward else b"")
            if want.status is Status.ok and want.actual == want.size and at < asked.size:
                if asked.number not in self._unlinks and not self.closed:
                    begin()
                    return
                want.status = Status.shutdown
            self._finish(asked, want, b"".join(found), at)
            self._go_on(asked.endpoint, inward=asked.inward)

        begin()

    def _go_on(self, endpoint: int, *, inward: bool) -> None:
        """A transfer in pieces is over: what has waited behind it may go."""
        behind = self._behind.pop((endpoint, inward))
        while behind and not self.closed:
            asked = behind.popleft()
            del self._flying[asked.number]
            self._bytes -= asked.size
            unlink = self._unlinks.pop(asked.number, None)
            if unlink is not None:
                self._send(Short(Code.unlinked, unlink, usbip.ECONNRESET).emit())
                continue
            self._submit(asked)
            if (endpoint, inward) in self._behind:
                self._behind[endpoint, inward].extend(behind)
                break
        self._server.urbs.push()

    def _fly(self, asked: Submit, want: Want) -> None:
        if asked.number not in self._flying:
            self._bytes += asked.size
        self._flying[asked.number] = want
        self._server.urbs.submit(want)

    def _done(self, asked: Submit) -> Callable[[Want], None]:
        def over(want: Want) -> None:
            data = want.data if want.inward and not want.packets else b""
            if want.inward and want.packets:
                data = b"".join(want.data[one.offset : one.offset + one.actual] for one in want.packets)
            self._finish(asked, want, data, want.actual)

        return over

    def _finish(self, asked: Submit, want: Want, data: bytes, actual: int) -> None:
        del self._flying[asked.number]
        self._bytes -= asked.size
        unlink = self._unlinks.pop(asked.number, None)
        if unlink is not None and want.status is Status.shutdown:
            self._send(Short(Code.unlinked, unlink, usbip.ECONNRESET).emit())
            return
        if want.packets:
            actual = sum(one.actual for one in want.packets)
        self._send(
            Submitted(
                asked.number, int(want.status), actual, data, asked.start_frame, want.errors, tuple(want.packets)
            ).emit()
        )
        if unlink is not None:
            self._send(Short(Code.unlinked, unlink, 0).emit())

    def _unlink(self, asked: Short) -> None:
        if asked.value not in self._flying or asked.value in self._unlinks:
            self._send(Short(Code.unlinked, asked.number, 0).emit())
            return
        self._unlinks[asked.value] = asked.number
        if (want := self._flying[asked.value]) is not None:
            self._server.urbs.cancel(want)

    # What usbfs has ioctls for.

    def _own(self, asked: Short) -> None:
        device, number = self._device, asked.value
        assert device is not None
        known = {one.number for one in device.configuration.interfaces} if device.configuration else set()
        owner = device.claims.get(number)

        def answer(status: int) -> None:
            self._send(Short(asked.code, asked.number, status & 0xFFFFFFFF).emit())

        if self._server.hub.devices.get(device.port) is not device:
            answer(_GONE)
        elif number not in known:
            answer(_NOT_FOUND)
        elif asked.code == Code.claim:
            answer(0 if device.whole is None and device.claims.setdefault(number, self) is self else _BUSY)
        elif asked.code == Code.driver_active:
            answer(int(owner is not None and not isinstance(owner, Connection)))
        elif asked.code == Code.release:
            if owner is self:
                del device.claims[number]
            answer(0 if owner is self else -errno.EINVAL)
        elif asked.code == Code.attach_driver:
            self._server.release(device)
            answer(_BUSY if isinstance(device.claims.get(number), Connection) else 0)
        elif owner is None or isinstance(owner, Connection):
            answer(-errno.ENODATA)
        else:
            owner.leave(lambda words: answer(_BUSY if words == "busy" else 0))

    def gone(self) -> None:
        """See User."""
        if not self._local:
            self.close()

    def leave(self, then: Callable[[str], None]) -> None:
        """See User: a program does not let go because others want it to."""
        then("busy")

    def close(self) -> None:
        """It is over; what was asked for is taken back, and what was had given back."""
        if self.closed:
            return
        self.closed = True
        self._server.connections.discard(self)
        self._gate.shut()
        self._outbox.close()
        self._socket.close()
        self._take_back()
        if (device := self._device) is None:
            return
        mine = [number for number, owner in device.claims.items() if owner is self]
        for number in mine:
            del device.claims[number]
        if device.whole is self or (mine and not device.claims and interface_of(device) is not None):
            device.whole = self  # until others can have it
            self._renew(device, lambda _status: self._give_back(device))
        else:
            self._server.release(device)
