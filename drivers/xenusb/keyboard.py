"""A HID keyboard that types what is written into a FIFO: `keyboard:/path/to/fifo`.

mkfifo keys; xenfs usbdev-attach guest device=keyboard:$PWD/keys; echo 'Hello, world!' > keys
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType

from xenfs.abi.usbif import PipeType, Speed
from xenfs.xenbus.loop import Gate
from xenusb.descriptors import CLASS, STANDARD, TO_INTERFACE, Ask, Endpoint, Interface, Kind, Setup
from xenusb.device import Host
from xenusb.gadget import About, Gadget, Stall

REPORT = bytes.fromhex(
    "05010906a101"  # a keyboard
    "050719e029e7150025017501950881 02"  # eight modifiers, a bit each
    "950175088101"  # a byte of nothing
    "0508190129059505750191 02950175039101"  # five lights
    "05071900296515002565750895068100c0"  # six keys, a byte each
)
"""The report descriptor of a boot keyboard (HID 1.11, appendix B.1)."""
_SHIFT = 0x02
_KEYS = 1
_SIZE = 8
_ROOM = 1 << 16
"""Reports that may wait to be typed; whoever writes more is made to wait by the FIFO."""
GET_REPORT, GET_IDLE, GET_PROTOCOL, SET_REPORT, SET_IDLE, SET_PROTOCOL = 0x01, 0x02, 0x03, 0x09, 0x0A, 0x0B
_UNDER = "1234567890-=[]\\;'`,./"
_OVER = '!@#$%^&*()_+{}|:"~<>?'
_CODES = (*range(0x1E, 0x28), 0x2D, 0x2E, 0x2F, 0x30, 0x31, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38)


def _layout() -> Mapping[str, tuple[int, int]]:
    """Modifiers and the usage of the key, by character: as on a keyboard of the United States."""
    found = {"\n": (0, 0x28), "\t": (0, 0x2B), " ": (0, 0x2C)}
    for number in range(26):
        found[chr(ord("a") + number)] = (0, 4 + number)
        found[chr(ord("A") + number)] = (_SHIFT, 4 + number)
    found |= {key: (0, code) for key, code in zip(_UNDER, _CODES, strict=True)}
    found |= {key: (_SHIFT, code) for key, code in zip(_OVER, _CODES, strict=True)}
    return MappingProxyType(found)


LAYOUT = _layout()
_HID = bytes((9, Kind.hid, 0x11, 0x01, 0, 1, Kind.report)) + len(REPORT).to_bytes(2, "little")


class Keyboard(Gadget):
    """The keyboard: each key is pressed in one report and let go in the next."""

    speed = Speed.low
    about = About(0x1209, 0x5855, "xenfs", "Keyboard")
    interfaces = (Interface(0, 3, 1, 1, (Endpoint(_KEYS, True, PipeType.interrupt, _SIZE, 10),), extra=_HID),)

    def __init__(self, argument: str, host: Host) -> None:
        """Open the FIFO, for reading and writing, so that writers may come and go. Raises OSError."""
        self._fd = os.open(argument, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise OSError(errno.EINVAL, "not a FIFO", argument)
        super().__init__(argument, host)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._typed: deque[bytes] = deque()
        self._idle, self._protocol, self.lights = 0, 1, 0
        self._listening = Gate(host.loop, self._fd, lambda: host.attempt(self._read))
        self._listening.open()

    def _read(self) -> None:
        text = ""
        with suppress(BlockingIOError):  # somebody else has read it
            text = self._decoder.decode(os.read(self._fd, 4096))
        for letter in text:
            if letter in LAYOUT:
                modifiers, code = LAYOUT[letter]
                self._typed += (bytes((modifiers, 0, code)) + bytes(5), bytes(_SIZE))
            else:
                self.host.say(f"there is no key for {letter!r}")
        if len(self._typed) >= _ROOM:
            self._listening.shut()
        self.ready(_KEYS, inward=True)

    def restarted(self) -> None:
        """See Gadget."""
        self._idle, self._protocol = 0, 1

    def give(self, endpoint: int, size: int) -> bytes | None:
        """See Gadget."""
        if not self._typed:
            return None
        report = self._typed.popleft()
        if len(self._typed) < _ROOM:
            self._listening.open()
        return report

    def control(self, setup: Setup, data: bytes) -> bytes:
        """See Gadget."""
        if setup.kind == STANDARD and setup.request == Ask.get_descriptor:
            descriptors = {int(Kind.report): REPORT, int(Kind.hid): _HID}
            if (kind := setup.value >> 8) in descriptors:
                return descriptors[kind]
        if (setup.kind, setup.recipient) != (CLASS, TO_INTERFACE):
            raise Stall
        if setup.request == SET_IDLE:
            self._idle = setup.value >> 8
        elif setup.request == SET_PROTOCOL:
            self._protocol = setup.value & 1
        elif setup.request == SET_REPORT:
            self.lights = data[0] if data else 0
        else:
            answers = {GET_REPORT: bytes(_SIZE), GET_IDLE: bytes((self._idle,)), GET_PROTOCOL: bytes((self._protocol,))}
            if setup.request not in answers:
                raise Stall
            return answers[setup.request]
        return b""

    def closed(self) -> None:
        """See Gadget."""
        self._listening.shut()
        os.close(self._fd)
