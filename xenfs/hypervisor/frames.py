"""Frames: who owns which, what is idle, and how they move between a domain and the machine.

Theory of operation. A frame is free, or owned by one domain. An owned frame is *idle* (in `Domain.idle`, no record) or
*busy* (a `Frame` in `State.busy`): held by a handle, granted, mapped, or named. `settle` is the only way from busy to
idle; it is called whenever a reason to be busy ends. A frame changes hands only when idle or merely held, so never
while a peer maps it; the world is told to drop its bytes, or to move them when the frame is flipped.
"""

from __future__ import annotations

from xenfs.abi import xenfs_op as op
from xenfs.abi.xen import DOMID_SELF
from xenfs.hypervisor.errors import FrameInUse, Invalid, NameTaken, NoFrame, NoSuchName, NotOwned, NotPermitted
from xenfs.hypervisor.state import Caller, Domain, Frame, Handle, Ring, State


def target(state: State, caller: Caller, domid: int) -> Domain:
    """The domain that a request is about: the caller's own, or for domain 0 and the world any. Raises NotPermitted."""
    if domid in (DOMID_SELF, caller.domain.domid):
        return caller.domain
    if caller.domain.domid and not caller.world:
        raise NotPermitted(f"domain {domid}", f"only domain 0 may, not domain {caller.domain.domid}")
    return state.domain(domid)


def owned(domain: Domain, number: int) -> None:
    """Raise NotOwned unless the domain owns the frame."""
    if number not in domain.frames:
        raise NotOwned(f"frame {number}", f"domain {domain.domid} does not own it")


def movable(state: State, domain: Domain, number: int) -> Frame | None:
    """The record of a frame that may change hands, None when idle. Raises NotOwned or FrameInUse."""
    owned(domain, number)
    frame = state.busy.get(number)
    if frame is not None and frame.use:
        raise FrameInUse(f"frame {number} of domain {domain.domid}", frame.use)
    return frame


def busy(state: State, domain: Domain, number: int) -> Frame:
    """The record of a frame that the domain owns, made when it was idle."""
    frame = state.busy.get(number)
    if frame is None:
        domain.idle.discard(number)
        frame = state.busy[number] = Frame(number, domain)
    return frame


def settle(state: State, frame: Frame) -> None:
    """Let a frame go that nothing keeps any more: to its domain's idle ones, or to the machine when the domain died."""
    if frame.holder is not None or frame.use:
        return
    del state.busy[frame.number]
    if frame.owner.state != "dying":
        frame.owner.idle.add(frame.number, frame.number + 1)
        return
    _to_machine(state, frame.owner, frame.number)
    forget_if_empty(state, frame.owner)


def forget_if_empty(state: State, domain: Domain) -> None:
    """Strike a dead domain off the dying once all it had is released and it neither owns nor maps anything more."""
    if domain.released and not domain.frames and not domain.maps:
        state.dying.remove(domain)


def hold(state: State, handle: Handle, number: int) -> Frame:
    """Make a frame of the handle's domain belong to the handle."""
    frame = busy(state, handle.domain, number)
    frame.holder = handle
    handle.owns[frame] = None
    return frame


def let_go(state: State, frame: Frame) -> None:
    """End a handle's hold on a frame; its bytes go unless somebody still maps or grants it."""
    if frame.holder is not None:
        frame.holder.owns.pop(frame, None)
        frame.holder = None
    if not frame.use and frame.owner.state != "dying":
        state.contents.drop(frame.number, frame.number + 1)
    settle(state, frame)


def _to_machine(state: State, domain: Domain, number: int) -> None:
    domain.frames.discard(number)
    state.contents.drop(number, number + 1)
    state.free.add(number, number + 1)


def take_out(state: State, domain: Domain, number: int) -> None:
    """Take a movable frame from its domain, whether idle or held; it belongs to nobody until put somewhere."""
    frame = state.busy.pop(number, None)
    if frame is None:
        domain.idle.discard(number)
    elif frame.holder is not None:
        frame.holder.owns.pop(frame, None)
    domain.frames.discard(number)


def put_in(state: State, handle: Handle, number: int) -> Frame:
    """Give a frame that belongs to nobody to a handle and its domain."""
    handle.domain.frames.add(number, number + 1)
    frame = state.busy[number] = Frame(number, handle.domain, handle)
    handle.owns[frame] = None
    return frame


def grow(state: State, domain: Domain, count: int) -> None:
    """Give a domain `count` idle frames of the machine's. Raises NoFrame and gives none when there are fewer."""
    if not count:
        return  # also for a domain that owns more than its maximum, since that was lowered
    if count > len(state.free):
        few = f"only {len(state.free)} of the machine's {state.config.frames} are free"
        raise NoFrame("machine", f"domain {domain.domid} wants {count} frames, and {few}")
    if len(domain.frames) + count > domain.max_frames:
        most = f"it owns {len(domain.frames)} frames and may own {domain.max_frames} at most"
        raise NoFrame(f"domain {domain.domid}", f"{most}, so that {count} more are too many")
    for start, stop in state.free.take(count):
        domain.frames.add(start, stop)
        domain.idle.add(start, stop)


def shrink(state: State, domain: Domain, count: int) -> None:
    """Give `count` idle frames of a domain, of at least as many, back to the machine: the highest ones."""
    while count > 0:
        count -= shrink_run(state, domain, count)


def shrink_run(state: State, domain: Domain, most: int) -> int:
    """Give one run of idle frames, at most `most`, back to the machine; how many they were."""
    start, stop = domain.idle.take_run(most)
    domain.frames.remove(start, stop)
    state.contents.drop(start, stop)
    state.free.add(start, stop)
    return stop - start


def settle_balance(state: State, handle: Handle) -> None:
    """Undo what a handle that goes did to the size of its domain, as far as there are frames for it."""
    domain, more = handle.domain, handle.balance
    handle.balance = 0
    if more > 0:
        shrink(state, domain, min(more, len(domain.idle)))
    elif more < 0:
        grow(state, domain, min(-more, len(state.free), max(0, domain.max_frames - len(domain.frames))))


def alloc_frame(state: State, caller: Caller, _request: op.AllocFrame) -> dict[str, int]:
    """Hold the lowest idle frame of the caller's."""
    domain = caller.domain
    if not domain.idle:
        raise NoFrame(f"{domain}", "no idle frame left, all are in use", len(domain.frames), len(domain.frames))
    number = domain.idle.lowest
    state.contents.drop(number, number + 1)
    hold(state, caller.handle, number)
    return {"frame": number}


def free_frame(state: State, caller: Caller, request: op.FreeFrame) -> dict[str, int]:
    """Make a held frame idle, now or when the last reason to keep it goes."""
    if request.flags & ~1:
        raise Invalid(f"flags {request.flags:#x}", "only defer (1) is allowed")
    owned(caller.domain, request.frame)
    frame = state.busy.get(request.frame) if request.flags else movable(state, caller.domain, request.frame)
    if frame is None:
        raise Invalid(f"frame {request.frame}", "it is idle already")
    let_go(state, frame)
    return {}


def increase_reservation(state: State, caller: Caller, _request: op.IncreaseReservation) -> dict[str, int]:
    """Balloon one frame in and hold it."""
    domain = caller.domain
    if not state.free:
        raise NoFrame("machine", "no free frame left", 0, state.config.frames)
    if len(domain.frames) >= domain.max_frames:
        raise NoFrame(f"{domain}", "may own no more frames", len(domain.frames), domain.max_frames)
    ((number, _),) = state.free.take(1)
    put_in(state, caller.handle, number)
    caller.handle.balance += 1
    return {"frame": number}


def decrease_reservation(state: State, caller: Caller, request: op.DecreaseReservation) -> dict[str, int]:
    """Balloon one frame out."""
    movable(state, caller.domain, request.frame)
    take_out(state, caller.domain, request.frame)
    state.contents.drop(request.frame, request.frame + 1)
    state.free.add(request.frame, request.frame + 1)
    caller.handle.balance -= 1
    return {}


def set_memory(state: State, caller: Caller, request: op.SetMemory) -> dict[str, int]:
    """Balloon a domain to a number of frames."""
    domain = target(state, caller, request.dom)
    more = request.frames - len(domain.frames)
    if more >= 0:
        grow(state, domain, more)
    elif -more > len(domain.idle):
        used = len(domain.frames) - len(domain.idle)
        problem = f"it cannot shrink to {request.frames} frames, since more are in use"
        raise FrameInUse(f"{domain}", problem, used, len(domain.frames))
    else:
        shrink(state, domain, -more)
    return {}


def set_max_memory(state: State, caller: Caller, request: op.SetMaxMemory) -> dict[str, int]:
    """Set the most that a domain may own; what it has above that it keeps, as in Xen."""
    domain = target(state, caller, request.dom)
    if request.frames > state.config.frames:
        most = f"the machine has {state.config.frames}"
        raise Invalid(f"{domain}", f"it cannot grow to {request.frames} frames: {most}")
    domain.max_frames = request.frames
    return {}


def current_reservation(state: State, caller: Caller, request: op.CurrentReservation) -> dict[str, int]:
    """Frames owned."""
    return {"frames": len(target(state, caller, request.dom).frames)}


def maximum_reservation(state: State, caller: Caller, request: op.MaximumReservation) -> dict[str, int]:
    """Frames that may be owned."""
    return {"frames": target(state, caller, request.dom).max_frames}


def name_ring(state: State, caller: Caller, request: op.NameRing) -> dict[str, int]:
    """Name a frame as a ring."""
    domain, name = caller.domain, request.name
    words = name.split("-")
    if len(words) < 3 or not all(w.isalnum() and w == w.lower() for w in words):
        raise Invalid(f"ring name {name!r}", "must be <device>-<n>-<ring> in lower case, such as vif-0-tx")
    named = domain.rings.get(name)
    if named is not None and not named.handle.closed:
        raise NameTaken(f"ring {name} of {domain}", f"it names frame {named.frame.number}")
    owned(domain, request.frame)
    known = state.busy.get(request.frame)
    other = known.ring if known is not None else None
    if other is not None and not other.handle.closed:
        raise FrameInUse(f"{known}", f"it is ring {other.name} already")
    for stale in (named, other if other is not named else None):
        if stale is not None:
            forget_ring(state, stale)
    frame = busy(state, domain, request.frame)
    frame.ring = domain.rings[name] = Ring(name, frame, caller.handle)
    caller.handle.owns[frame.ring] = None
    return {}


def unname_ring(state: State, caller: Caller, request: op.UnnameRing) -> dict[str, int]:
    """Take a ring's name away."""
    ring = caller.domain.rings.get(request.name)
    if ring is None:
        raise NoSuchName(f"ring {request.name!r} of {caller.domain}", "there is no ring of that name")
    forget_ring(state, ring)
    return {}


def forget_ring(state: State, ring: Ring) -> None:
    """Take a name away."""
    ring.handle.owns.pop(ring, None)
    ring.frame.owner.rings.pop(ring.name, None)
    ring.frame.ring = None
    settle(state, ring.frame)
