"""/dev/xen/evtchn (xen/evtchn.h). The result of a bind is the return value of the ioctl, not a field."""

from __future__ import annotations

from dataclasses import dataclass

from xenfs.abi.ioctl import Ioctl
from xenfs.abi.wire import U16, U32, Wire, wire

_HEADER = "xen/evtchn.h"


@wire("struct ioctl_evtchn_bind_virq", 4, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class BindVirq(Wire):
    """Bind a virtual interrupt to a fresh local port."""

    virq: U32


@wire("struct ioctl_evtchn_bind_interdomain", 8, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class BindInterdomain(Wire):
    """Bind a fresh local port to an unbound one of another domain."""

    remote_domain: U32
    remote_port: U32


@wire("struct ioctl_evtchn_bind_unbound_port", 4, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class BindUnboundPort(Wire):
    """Allocate a port that `remote_domain` may bind to."""

    remote_domain: U32


@wire("struct ioctl_evtchn_unbind", 4, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class Unbind(Wire):
    """Close a port of this file."""

    port: U32


@wire("struct ioctl_evtchn_notify", 4, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class Notify(Wire):
    """Raise the peer's event."""

    port: U32


@wire("struct ioctl_evtchn_restrict_domid", 2, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class RestrictDomid(Wire):
    """From now on this file binds to one domain only."""

    domid: U16


@wire("struct ioctl_evtchn_bind_static", 4)
@dataclass(frozen=True, slots=True, kw_only=True)
class BindStatic(Wire):
    """Take a port that exists already; newer than the headers of Debian 12, so not compared with them."""

    port: U32


BIND_VIRQ = Ioctl("IOCTL_EVTCHN_BIND_VIRQ", "E", 0, 4)
BIND_INTERDOMAIN = Ioctl("IOCTL_EVTCHN_BIND_INTERDOMAIN", "E", 1, 8)
BIND_UNBOUND_PORT = Ioctl("IOCTL_EVTCHN_BIND_UNBOUND_PORT", "E", 2, 4)
UNBIND = Ioctl("IOCTL_EVTCHN_UNBIND", "E", 3, 4)
NOTIFY = Ioctl("IOCTL_EVTCHN_NOTIFY", "E", 4, 4)
RESET = Ioctl("IOCTL_EVTCHN_RESET", "E", 5, 0)
RESTRICT_DOMID = Ioctl("IOCTL_EVTCHN_RESTRICT_DOMID", "E", 6, 2)
BIND_STATIC = Ioctl("IOCTL_EVTCHN_BIND_STATIC", "E", 7, 4)

IOCTLS = (BIND_VIRQ, BIND_INTERDOMAIN, BIND_UNBOUND_PORT, UNBIND, NOTIFY, RESET, RESTRICT_DOMID, BIND_STATIC)
NEWER = (BIND_STATIC,)
"""Not in the headers of Xen 4.17."""
