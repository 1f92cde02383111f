"""What each end of a device does next, by its own state and the other end's: the whole handshake as two tables.

An end looks at the states as they are now and never at how they came to be so: events may be lost, merged or repeated,
and either end may be killed and started again at any moment. What it does, if it does anything, changes its own state,
so that looking again leads on to the next step, until there is nothing to do but to wait.

A process that has just started holds nothing. A frontend begins by writing Initialising, whatever was there before; a
backend begins as if it had read Initialising. What a dead process left in the other end's way is cleared by these
tables too: a backend that finds its frontend beyond Initialising asks it to close first, and one that is connected and
finds its frontend at Initialising lets go of everything and offers again.

Sources: xen/io/xenbus.h, the xenbus drivers of Linux, and what was recorded on real Xen, as far as that goes.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType

from xenfs.abi.xenbus import XenbusState


class FrontStep(Enum):
    """What a frontend does; the value says it in words."""

    END = "its own nodes are gone: release everything, and end"
    AWAIT = "wait for the backend"
    PUBLISH = "make rings and channels, write the keys, and move on"
    CONNECT = "the backend is connected: take what it says of the device, and be connected too"
    WORK = "both ends are connected"
    RESTART = "start over: release everything, and be Initialising"
    CLOSE = "the backend is closing, closed or gone: release everything, and be Closed"
    LEAVE = "the backend has let go: release everything, and be Closed"
    STOPPED = "closed, until the backend has closed as well or comes back"
    REOPEN = "be Initialising again, if the backend is still wanted (online)"
    FAIL = "a state that the backend may not have here: say so in the error node, and close"


class BackStep(Enum):
    """What a backend does; the value says it in words."""

    END = "its own nodes are gone: release everything, and end"
    OFFER = "write what it can do, and be InitWait"
    AWAIT = "wait for the frontend"
    EVICT = "the frontend still stands where an earlier backend left it: be Closing, so that it closes"
    CONNECT = "map the rings, bind the channel, write the keys, and be Connected"
    WORK = "both ends are connected"
    RECONNECT = "the frontend has started over: let go of everything, and offer again"
    CLOSE = "the frontend is closing: let go of everything, and be Closing"
    CLOSED = "the frontend has closed or is gone: let go of everything, and be Closed"
    STOPPED = "closed, until the frontend starts again or the toolstack removes the device"
    REFUSE = "closed, and the frontend may not be in this state now: say so in the error node"
    FAIL = "a state that the frontend may not have here: say so in the error node, let go of everything, and close"


Peer = XenbusState | None
"""The other end's state; None for what is no state."""
PEERS: tuple[Peer, ...] = (*XenbusState, None)
"""The columns of the tables."""

# Columns: the other end is Unknown, Initialising, InitWait, Initialised, Connected, Closing, Closed, Reconfiguring,
# Reconfigured, or in no state at all.

_FRONT_COMMON = """
Unknown        END     END      END     END     END     END     END     END     END     END
Initialising   AWAIT   AWAIT    PUBLISH AWAIT   AWAIT   AWAIT   AWAIT   AWAIT   AWAIT   AWAIT
InitWait       RESTART RESTART  RESTART RESTART RESTART RESTART RESTART RESTART RESTART RESTART
Closing        LEAVE   LEAVE    AWAIT   AWAIT   AWAIT   LEAVE   LEAVE   AWAIT   AWAIT   LEAVE
Closed         STOPPED STOPPED  REOPEN  STOPPED STOPPED STOPPED REOPEN  STOPPED STOPPED STOPPED
Reconfiguring  RESTART RESTART  RESTART RESTART RESTART RESTART RESTART RESTART RESTART RESTART
Reconfigured   RESTART RESTART  RESTART RESTART RESTART RESTART RESTART RESTART RESTART RESTART
"""

# One that is connected as soon as it has published, before the backend is: net, usb.
_FRONT_AT_ONCE = """
Initialised    RESTART RESTART  RESTART RESTART RESTART RESTART RESTART RESTART RESTART RESTART
Connected      CLOSE   RESTART  AWAIT   AWAIT   WORK    CLOSE   CLOSE   FAIL    FAIL    FAIL
"""

# One that is Initialised when it has published, and connected after the backend: block.
_FRONT_AFTER = """
Initialised    CLOSE   RESTART  AWAIT   AWAIT   CONNECT CLOSE   CLOSE   FAIL    FAIL    FAIL
Connected      CLOSE   RESTART  RESTART FAIL    WORK    CLOSE   CLOSE   FAIL    FAIL    FAIL
"""

_BACK_COMMON = """
Unknown        END     END      END     END     END     END     END     END     END     END
Initialising   AWAIT   OFFER    OFFER   EVICT   EVICT   EVICT   OFFER   OFFER   OFFER   OFFER
Initialised    OFFER   OFFER    OFFER   EVICT   EVICT   EVICT   OFFER   OFFER   OFFER   OFFER
Closing        CLOSED  CLOSED   CLOSED  AWAIT   AWAIT   AWAIT   CLOSED  CLOSED  CLOSED  CLOSED
Closed         STOPPED OFFER    REFUSE  REFUSE  REFUSE  STOPPED STOPPED REFUSE  REFUSE  REFUSE
Reconfiguring  OFFER   OFFER    OFFER   EVICT   EVICT   EVICT   OFFER   OFFER   OFFER   OFFER
Reconfigured   OFFER   OFFER    OFFER   EVICT   EVICT   EVICT   OFFER   OFFER   OFFER   OFFER
"""

_BACK_AT_ONCE = """
InitWait       CLOSED  AWAIT    FAIL    FAIL    CONNECT CLOSE   AWAIT   FAIL    FAIL    FAIL
Connected      CLOSED  RECONNECT FAIL   FAIL    WORK    CLOSE   CLOSED  FAIL    FAIL    FAIL
"""

_BACK_AFTER = """
InitWait       CLOSED  AWAIT    FAIL    CONNECT CONNECT CLOSE   AWAIT   FAIL    FAIL    FAIL
Connected      CLOSED  RECONNECT FAIL   WORK    WORK    CLOSE   CLOSED  FAIL    FAIL    FAIL
"""

FrontTable = MappingProxyType[tuple[XenbusState, Peer], FrontStep]
BackTable = MappingProxyType[tuple[XenbusState, Peer], BackStep]


def _rows(*parts: str) -> dict[tuple[XenbusState, Peer], str]:
    """A table out of its text: a line per state of one's own, a column per state of the other end."""
    found = {}
    for line in "".join(parts).split("\n"):
        if words := line.split():
            own, *steps = words
            found.update({(XenbusState[own], peer): step for peer, step in zip(PEERS, steps, strict=True)})
    return found


def _front(*parts: str) -> FrontTable:
    return MappingProxyType({pair: FrontStep[name] for pair, name in _rows(*parts).items()})


def _back(*parts: str) -> BackTable:
    return MappingProxyType({pair: BackStep[name] for pair, name in _rows(*parts).items()})


FRONT_AT_ONCE = _front(_FRONT_COMMON, _FRONT_AT_ONCE)
FRONT_AFTER = _front(_FRONT_COMMON, _FRONT_AFTER)
BACK_AT_ONCE = _back(_BACK_COMMON, _BACK_AT_ONCE)
BACK_AFTER = _back(_BACK_COMMON, _BACK_AFTER)
