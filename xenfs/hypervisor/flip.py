"""Page transfer: a frame changes owner with its bytes, by way of an accept_transfer grant of the receiver.

Xen loses the page on most failures. Here every check comes before the frame moves, so a refused page stays where it
was, with the status that Xen would give. The transfer is one step in this machine: an entry is never seen committed
and not completed.
"""

from __future__ import annotations

from xenfs.abi import grant_table as gt
from xenfs.abi import xenfs_op as op
from xenfs.abi.grant_table import Gtf
from xenfs.abi.xen import DOMID_SELF
from xenfs.hypervisor import frames, grants
from xenfs.hypervisor.errors import GrantRefused, NoHeadroom
from xenfs.hypervisor.state import Caller, Domain, Grant, State


def accept_transfer(state: State, caller: Caller, request: op.AcceptTransfer) -> dict[str, int]:
    """Offer to take one frame."""
    del state
    grant = grants.new(caller, request.dom, Gtf.accept_transfer)
    caller.domain.in_flight += 1
    return {"ref": grant.ref}


def _offer(receiver: Domain, ref: int, sender: Domain) -> Grant:
    grant = receiver.grants.get(ref)
    if grant is None or grant.handle.closed or grant.type is not Gtf.accept_transfer:
        why = "it accepts no transfer"
    elif grant.grantee != sender.domid:
        why = f"it accepts no transfer from domain {sender.domid}"
    elif grant.frame is not None:
        why = f"frame {grant.frame.number} has come by it already"
    else:
        return grant
    raise GrantRefused(f"grant {ref} of {receiver}", why)


def transfer(state: State, caller: Caller, request: gt.Transfer) -> dict[str, int]:
    """Flip one frame, with Xen's checks in Xen's order."""
    sender, number = caller.domain, request.mfn
    frames.movable(state, sender, number)
    receiver = state.domain(sender.domid if request.domid == DOMID_SELF else request.domid)
    if receiver is not sender and len(receiver.frames) >= receiver.max_frames:
        raise NoHeadroom(f"{receiver}", "may own no more frames", len(receiver.frames), receiver.max_frames)
    grant = _offer(receiver, request.ref, sender)
    frames.take_out(state, sender, number)
    caller.handle.balance -= 1
    grant.frame = frames.put_in(state, grant.handle, number)
    grant.handle.balance += 1
    receiver.in_flight -= 1
    state.contents.move(number)
    return {}


def end_transfer(state: State, caller: Caller, request: op.EndTransfer) -> dict[str, int]:
    """Collect the frame, or withdraw the offer."""
    grant = grants.lookup(caller.domain, request.ref)
    if grant.type is not Gtf.accept_transfer:
        raise GrantRefused(f"{grant}", "it grants access: use end_access")
    frame = grant.frame
    grants.free(state, grant)
    return {"completed": int(frame is not None), "frame": frame.number if frame else 0}
