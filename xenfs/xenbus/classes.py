"""The device classes of Xen: which keys each side writes, of what kind, and what an absent one means.

Sources: xen/io/netif.h, blkif.h and usbif.h, libxl, and the Linux drivers where the headers are silent.
"""

from __future__ import annotations

from types import MappingProxyType

from xenfs.xenbus.device import DeviceClass
from xenfs.xenbus.keys import DOMID, FLAG, GREF, MAC, PORT, Key, Number, Text, Writer

W = Writer
_STATE = Number(1, 6)
_PATH = Text(r"/[ -~]*", "not an absolute path")
_COMMON = (
    Key("frontend", W.toolstack, _PATH, about="the frontend's directory"),
    Key("frontend-id", W.toolstack, DOMID, about="the frontend's domain"),
    Key("online", W.toolstack, FLAG, True, about="0 asks the backend to go for good when it has closed"),
    Key("backend", W.toolstack_front, _PATH, about="the backend's directory"),
    Key("backend-id", W.toolstack_front, DOMID, about="the backend's domain"),
)
_PLUGGED = (
    Key(
        "hotplug-status", W.hotplug, Text("connected|error|busy|"), about="the backend connects when it is `connected`"
    ),
    Key("hotplug-error", W.hotplug, Text(), "", about="why it is `error`"),
)


def _back(
    name: str, kind: Number | None = None, default: int | bool = False, *, late: bool = False, about: str = ""
) -> Key:
    """A feature of the backend's: absent means no."""
    return Key(name, W.backend, FLAG if kind is None else kind, default, late, about)


def _front(name: str, default: bool = False, about: str = "") -> Key:
    return Key(name, W.frontend, FLAG, default, about=about)


VIF = DeviceClass(
    "vif",
    hotplug=True,
    keys=(
        *_COMMON,
        Key("script", W.toolstack, Text(), "", about="vif-bridge, vif-route, or a program that plugs the interface in"),
        Key("mac", W.toolstack, MAC, about="the guest's address"),
        Key(
            "bridge",
            W.toolstack,
            Text(r"[^/\s]{0,15}", "not the name of an interface, of 15 characters at most"),
            "",
            about="the bridge that the interface joins",
        ),
        Key("handle", W.toolstack, Number(), 0, about="the number of the device"),
        Key("type", W.toolstack, Text(), "vif"),
        Key(
            "vifname",
            W.toolstack,
            Text(r"[^/\s]{0,15}", "not the name of an interface, of 15 characters at most"),
            "",
            about="the interface's name instead of vif<domid>.<n>",
        ),
        Key("ip", W.toolstack, Text(), "", about="addresses that the guest may use, and routes to it"),
        Key(
            "gatewaydev",
            W.toolstack,
            Text(),
            "",
            about="for vif-route: the interface whose address the host answers with",
        ),
        Key(
            "rate",
            W.toolstack,
            Text(r"(\d{1,19},\d{1,10})?", "not <bytes>,<microseconds>"),
            "",
            about="the guest may send so much",
        ),
        Key("mtu", W.toolstack, Number(68, 65535), 1500),
        Key(
            "rx",
            W.toolstack,
            Text("(flip|copy)?", "neither flip nor copy"),
            "",
            about="xenfs: how the guest is to receive",
        ),
        Key("handle", W.toolstack_front, Number(), 0),
        Key("mac", W.toolstack_front, MAC),
        Key("mtu", W.toolstack_front, Number(68, 65535), 1500),
        Key("trusted", W.toolstack_front, FLAG, True, about="whether the guest trusts the backend"),
        Key(
            "rx",
            W.toolstack_front,
            Text("(flip|copy)?", "neither flip nor copy"),
            "",
            about="xenfs: how the guest is to receive",
        ),
        *_PLUGGED,
        _back("feature-sg", about="takes packets of several slots"),
        _back("feature-gso-tcpv4", about="takes TCP segments larger than the MTU"),
        _back("feature-gso-tcpv6"),
        _back("feature-ipv6-csum-offload"),
        _back("feature-rx-copy", about="can copy packets into granted pages"),
        _back("feature-xdp-headroom"),
        _back("feature-rx-flip", about="can flip pages with packets to the guest"),
        _back("feature-multicast-control"),
        _back("feature-dynamic-multicast-control"),
        _back("feature-split-event-channels", about="a channel for each ring"),
        _back("multi-queue-max-queues", Number(1, 1024), 1),
        _back("feature-ctrl-ring"),
        Key("tx-ring-ref", W.frontend, GREF, about="the grant of the transmit ring's page"),
        Key("rx-ring-ref", W.frontend, GREF, about="the grant of the receive ring's page"),
        Key("event-channel", W.frontend, Number(0, PORT.high), 0, about="one port for both rings"),
        Key("event-channel-tx", W.frontend, Number(0, PORT.high), 0),
        Key("event-channel-rx", W.frontend, Number(0, PORT.high), 0),
        Key("multi-queue-num-queues", W.frontend, Number(1, 1), 1),
        _front("request-rx-copy", about="receives by copy; else by page flipping"),
        _front("feature-rx-notify", about="says when it has posted buffers"),
        _front("feature-sg", about="receives packets of several slots"),
        _front("feature-gso-tcpv4"),
        _front("feature-gso-tcpv6"),
        _front("feature-ipv6-csum-offload"),
        _front("feature-no-csum-offload", about="wants whole checksums"),
        _front("request-multicast-control"),
        Key("ctrl-ring-ref", W.frontend, Number(0, GREF.high), -1, about="the grant of the control ring's page"),
        Key("event-channel-ctrl", W.frontend, Number(0, PORT.high), 0),
    ),
)

VBD = DeviceClass(
    "vbd",
    after=True,
    says_closing=False,
    backend_kinds=("vbd", "qdisk"),
    hotplug=True,
    keys=(
        *_COMMON,
        Key("params", W.toolstack, Text(), "", about="the file or device behind the disk"),
        Key("script", W.toolstack, Text(), ""),
        Key("removable", W.toolstack, FLAG, False),
        Key("bootable", W.toolstack, FLAG, True),
        Key("dev", W.toolstack, Text(), "", about="the disk's name in the guest"),
        Key("type", W.toolstack, Text(), "phy"),
        Key("mode", W.toolstack, Text("[rw]", "neither r nor w"), "w"),
        Key("device-type", W.toolstack, Text("disk|cdrom", "neither disk nor cdrom"), "disk"),
        Key("direct-io-safe", W.toolstack, FLAG, False),
        Key("discard-enable", W.toolstack, FLAG, True),
        Key("specification", W.toolstack, Text(), "xen"),
        Key("virtual-device", W.toolstack_front, Number()),
        Key("device-type", W.toolstack_front, Text("disk|cdrom", "neither disk nor cdrom"), "disk"),
        Key("trusted", W.toolstack_front, FLAG, True),
        Key("protocol", W.toolstack_front, Text("x86_64-abi|x86_32-abi|arm-abi|", "no ABI that is known"), ""),
        *_PLUGGED,
        Key("physical-device", W.hotplug, Text("[0-9a-f]+:[0-9a-f]+"), "", about="major:minor, in hexadecimal"),
        Key("physical-device-path", W.hotplug, Text(), ""),
        _back("feature-max-indirect-segments", Number(0, 4096), 0),
        _back("multi-queue-max-queues", Number(1, 1024), 1),
        _back("max-ring-page-order", Number(0, 8), 0),
        _back("feature-flush-cache", late=True),
        _back("feature-barrier", late=True),
        _back("feature-discard", late=True),
        _back("discard-granularity", Number(), 0, late=True),
        _back("discard-alignment", Number(), 0, late=True),
        _back("feature-persistent", late=True, about="keeps grants mapped"),
        Key("sectors", W.backend, Number(0, (1 << 63) // 512 - 1), late=True, about="the size in units of 512 bytes"),
        Key("info", W.backend, Number(0, 7), late=True, about="1 cdrom, 2 removable, 4 read-only"),
        Key(
            "sector-size",
            W.backend,
            Text("512|1024|2048|4096", "not 512, 1024, 2048 or 4096"),
            "512",
            True,
            "what reads and writes are whole numbers of",
        ),
        _back("physical-sector-size", Number(0, 1 << 20), 0, late=True),
        Key("ring-ref", W.frontend, Number(0, GREF.high), -1, about="the grant of the ring's page, if it has one"),
        Key("ring-page-order", W.frontend, Number(0, 8), 0, about="the ring has 2^n pages, ring-ref0 and on"),
        Key("event-channel", W.frontend, Number(0, PORT.high), 0),
        Key("protocol", W.frontend, Text("x86_64-abi|x86_32-abi|arm-abi|", "no ABI that is known"), ""),
        _front("feature-persistent"),
        Key("multi-queue-num-queues", W.frontend, Number(1, 1024), 1),
    ),
)

VUSB = DeviceClass(
    "vusb",
    backend_kinds=("vusb", "qusb"),
    keys=(
        *_COMMON,
        Key("type", W.toolstack, Text(), "pv"),
        Key("usb-ver", W.toolstack, Number(1, 2), about="1 or 2"),
        Key("num-ports", W.toolstack, Number(1, 31)),
        Key("port", W.toolstack, Text(), "", about="port/N names the device in port N"),
        Key("urb-ring-ref", W.frontend, GREF, about="the grant of the request ring's page"),
        Key("conn-ring-ref", W.frontend, GREF, about="the grant of the connection ring's page"),
        Key("event-channel", W.frontend, PORT, about="one port for both rings"),
        Key("protocol", W.frontend, Text(), ""),
        _front("feature-persistent", about="xenfs: uses the same pages again, which may stay mapped"),
    ),
)

CLASSES = MappingProxyType({known.kind: known for known in (VIF, VBD, VUSB)})
