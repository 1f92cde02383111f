"""Page flipping: a frame changes hands with its bytes and both counts, or nothing changes at all."""

from __future__ import annotations

import errno

import pytest

from tests.models import Model
from xenfs.abi.grant_table import GntStatus, MapGrantRef, Transfer
from xenfs.abi.wire import Wire
from xenfs.abi.xen import DOMID_SELF
from xenfs.abi.xenfs_op import (
    AcceptTransfer,
    AllocFrame,
    CloseHandle,
    CreateDomain,
    DecreaseReservation,
    DestroyDomain,
    EndTransfer,
    FreeFrame,
    GrantAccess,
    IncreaseReservation,
    NameRing,
    OpenHandle,
    SetMaxMemory,
)
from xenfs.hypervisor import Config, Limits
from xenfs.hypervisor.snapshot import counts

SENDER, RECEIVER, STRANGER = 1, 2, 3
FIRST = 16
"""The sender's first frame."""
TABLE_END = 8 + 5


class Flip(Model):
    """A machine with a sender, a receiver with room for two frames, and a stranger."""

    def __init__(self) -> None:
        super().__init__(Config(frames=48, dom0_frames=16, limits=Limits(grants=5)), frames=8, max_frames=10)

    def refuses(self, request: Wire, domid: int = SENDER) -> tuple[str, GntStatus | None]:
        error = self.refused(request, domid)
        return errno.errorcode[error.errno], error.status

    def offer(self, dom: int = SENDER, handle: int = 0) -> int:
        return self(AcceptTransfer(dom=dom), RECEIVER, handle).ref

    def send(self, ref: int, frame: int = FIRST, handle: int = 0) -> None:
        self(Transfer(mfn=frame, domid=RECEIVER, ref=ref), SENDER, handle)

    def owned(self) -> tuple[int, int]:
        domains = self.machine.state.domains
        return len(domains[SENDER].frames), len(domains[RECEIVER].frames)

    def in_flight(self) -> int:
        return counts(self.machine.state.domains[RECEIVER]).in_flight


@pytest.fixture
def flip() -> Flip:
    return Flip()


def test_the_frame_its_bytes_and_both_counts_move(flip: Flip) -> None:
    flip.contents.page(FIRST)[:6] = b"packet"
    ref = flip.offer()
    assert flip.in_flight() == 1
    flip.send(ref)
    assert flip.owned() == (7, 9)
    assert flip.in_flight() == 0
    assert FIRST in flip.machine.state.domains[RECEIVER].frames
    assert flip.contents.page(FIRST)[:6] == b"packet"


def test_the_old_owner_sees_no_more_of_the_page(flip: Flip) -> None:
    view = flip.contents.page(FIRST)
    flip.send(flip.offer())
    flip.contents.page(FIRST)[:6] = b"secret"
    assert bytes(view[:6]) == bytes(6)
    view[:6] = b"forged"
    assert flip.contents.page(FIRST)[:6] == b"secret"


@pytest.mark.parametrize("how", ["idle", "allocated", "increased"])
def test_an_idle_or_held_frame_may_be_sent(flip: Flip, how: str) -> None:
    frame = FIRST
    if how == "allocated":
        frame = flip(AllocFrame()).frame
    elif how == "increased":
        frame = flip(IncreaseReservation()).frame
    flip.send(flip.offer(), frame)
    assert frame in flip.machine.state.domains[RECEIVER].frames


def test_end_transfer_collects_the_frame(flip: Flip) -> None:
    ref = flip.offer()
    flip.send(ref)
    done = flip(EndTransfer(ref=ref), RECEIVER)
    assert (done.completed, done.frame) == (1, FIRST)
    assert flip.refuses(EndTransfer(ref=ref), RECEIVER) == ("ENOENT", GntStatus.bad_gntref)
    assert FIRST not in flip.machine.state.domains[RECEIVER].idle
    flip(FreeFrame(frame=FIRST), RECEIVER)


def test_end_transfer_withdraws_an_offer_not_taken(flip: Flip) -> None:
    ref = flip.offer()
    done = flip(EndTransfer(ref=ref), RECEIVER)
    assert (done.completed, done.frame, flip.in_flight()) == (0, 0, 0)
    assert flip.refuses(Transfer(mfn=FIRST, domid=RECEIVER, ref=ref))[1] is GntStatus.general_error


def test_frame_0_is_told_from_no_frame_by_completed(flip: Flip) -> None:
    ref = flip(AcceptTransfer(dom=0), RECEIVER).ref
    flip(Transfer(mfn=0, domid=RECEIVER, ref=ref), 0)
    done = flip(EndTransfer(ref=ref), RECEIVER)
    assert (done.completed, done.frame) == (1, 0)


# The statuses of xen-interfaces.md 4.4, in its order; what comes later in a row is wrong too where it can be.
REFUSALS = [
    ("not owned", {"mfn": 0, "domid": 9, "ref": 99}, GntStatus.bad_page),
    ("no such frame", {"mfn": 1 << 40, "domid": 9, "ref": 99}, GntStatus.bad_page),
    ("mapped", {"mfn": FIRST, "domid": 9, "ref": 99}, GntStatus.bad_page),
    ("granted", {"mfn": FIRST + 1, "domid": 9, "ref": 99}, GntStatus.bad_page),
    ("a ring", {"mfn": FIRST + 2, "domid": 9, "ref": 99}, GntStatus.bad_page),
    ("no such domain", {"mfn": FIRST + 3, "domid": 9, "ref": 99}, GntStatus.bad_domain),
    ("no headroom", {"mfn": FIRST + 3, "domid": STRANGER, "ref": 99}, GntStatus.general_error),
    ("beyond the table", {"mfn": FIRST + 3, "domid": RECEIVER, "ref": TABLE_END}, GntStatus.general_error),
    ("unused", {"mfn": FIRST + 3, "domid": RECEIVER, "ref": TABLE_END - 1}, GntStatus.general_error),
    ("reserved", {"mfn": FIRST + 3, "domid": RECEIVER, "ref": 0}, GntStatus.general_error),
    ("a grant", {"mfn": FIRST + 3, "domid": RECEIVER, "ref": 8}, GntStatus.general_error),
    ("from another", {"mfn": FIRST + 3, "domid": RECEIVER, "ref": 9}, GntStatus.general_error),
    ("taken already", {"mfn": FIRST + 3, "domid": RECEIVER, "ref": 10}, GntStatus.general_error),
]


@pytest.mark.parametrize(("fields", "status"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS])
def test_a_transfer_is_refused_in_xens_order_and_the_page_stays(
    flip: Flip, fields: dict[str, int], status: GntStatus
) -> None:
    mapped = flip(GrantAccess(frame=FIRST, dom=RECEIVER)).ref
    flip(MapGrantRef(ref=mapped, dom=SENDER), RECEIVER)
    flip(GrantAccess(frame=FIRST + 1, dom=RECEIVER))
    flip(NameRing(frame=FIRST + 2, name="vif-0-tx"))
    flip(SetMaxMemory(dom=STRANGER, frames=8), 0)
    flip(GrantAccess(frame=24, dom=SENDER), RECEIVER)
    flip.offer(STRANGER)
    flip.send(flip.offer(), FIRST + 7)
    assert flip.refuses(Transfer(**fields))[1] is status


def test_headroom_ends_at_the_receivers_maximum(flip: Flip) -> None:
    refs = [flip.offer() for _ in range(3)]
    for ref, frame in zip(refs[:2], (FIRST, FIRST + 1), strict=True):
        flip.send(ref, frame)
    request = Transfer(mfn=FIRST + 2, domid=RECEIVER, ref=refs[2])
    assert flip.refuses(request) == ("ENOMEM", GntStatus.general_error)
    flip(DecreaseReservation(frame=25), RECEIVER)
    flip(request)
    assert flip.owned() == (5, 10)


def test_a_domain_flips_to_itself_even_without_headroom(flip: Flip) -> None:
    flip(SetMaxMemory(dom=SENDER, frames=8), 0)
    ref = flip(AcceptTransfer(dom=DOMID_SELF)).ref
    flip(Transfer(mfn=FIRST, domid=DOMID_SELF, ref=ref))
    assert flip.owned() == (8, 8)
    assert flip(EndTransfer(ref=ref)).frame == FIRST


def test_a_received_frame_can_be_sent_on(flip: Flip) -> None:
    ref = flip.offer()
    flip.send(ref)
    flip(EndTransfer(ref=ref), RECEIVER)
    onward = flip(AcceptTransfer(dom=RECEIVER), STRANGER).ref
    flip(Transfer(mfn=FIRST, domid=STRANGER, ref=onward), RECEIVER)
    assert flip.owned() == (7, 8)
    assert FIRST in flip.machine.state.domains[STRANGER].frames


def test_the_frame_belongs_to_the_handle_that_made_the_offer(flip: Flip) -> None:
    handle = flip(OpenHandle(), RECEIVER).handle
    flip.send(flip.offer(handle=handle))
    flip(CloseHandle(handle=handle), RECEIVER)
    assert flip.owned() == (7, 8)
    assert flip.machine.state.domains[RECEIVER].idle == flip.machine.state.domains[RECEIVER].frames


def test_closing_the_senders_handle_refills_it(flip: Flip) -> None:
    handle = flip(OpenHandle(), SENDER).handle
    flip.send(flip.offer(), handle=handle)
    flip(CloseHandle(handle=handle))
    assert flip.owned() == (8, 9)


def test_closing_the_receivers_handle_withdraws_its_offers(flip: Flip) -> None:
    handle = flip(OpenHandle(), RECEIVER).handle
    ref = flip.offer(handle=handle)
    flip(CloseHandle(handle=handle), RECEIVER)
    assert flip.in_flight() == 0
    assert flip.refuses(Transfer(mfn=FIRST, domid=RECEIVER, ref=ref))[1] is GntStatus.general_error


def test_the_receivers_death_takes_the_frame_along_scrubbed(flip: Flip) -> None:
    flip.contents.page(FIRST)[:6] = b"packet"
    flip.send(flip.offer())
    flip(DestroyDomain(dom=RECEIVER), 0)
    assert FIRST in flip.machine.state.free
    assert flip.contents.page(FIRST)[:6] == bytes(6)


def test_the_senders_death_leaves_the_frame_with_the_receiver(flip: Flip) -> None:
    flip.contents.page(FIRST)[:6] = b"packet"
    flip.send(flip.offer())
    flip(DestroyDomain(dom=SENDER), 0)
    assert FIRST in flip.machine.state.domains[RECEIVER].frames
    assert flip.contents.page(FIRST)[:6] == b"packet"


def test_an_offer_to_a_dead_domain_is_open_to_its_successor_in_the_number(flip: Flip) -> None:
    ref = flip.offer()
    flip(DestroyDomain(dom=SENDER), 0)
    flip(CreateDomain(dom=SENDER, frames=4), 0)
    frame = flip(AllocFrame()).frame
    flip.send(ref, frame)
    assert frame in flip.machine.state.domains[RECEIVER].frames
