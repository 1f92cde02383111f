"""Grant copy: which bytes go where, who may, and in which order it is checked."""

from __future__ import annotations

import pytest

from xenfs.abi.grant_table import Copy, GntStatus, MapGrantRef
from xenfs.abi.xen import DOMID_SELF, PAGE_SIZE
from xenfs.abi.xenfs_op import AcceptTransfer, CreateDomain, DestroyDomain, EndAccess, GrantAccess
from xenfs.hypervisor import Config, Machine
from xenfs.hypervisor.errors import HypercallError
from xenfs.hypervisor.snapshot import snapshot
from xenfs.hypervisor.world import ByteContents

ONE, TWO, THREE = 16, 24, 32
"""The first frames of domains 1, 2 and 3; domain 3 makes the copies."""
FROM_REF, TO_REF = 1, 2


class Pages:
    """A machine in which domains 1 and 2 have granted their first frames to domain 3."""

    def __init__(self) -> None:
        self.contents = ByteContents()
        self.machine = Machine(Config(frames=64, dom0_frames=16), contents=self.contents)
        for dom in (1, 2, 3):
            self.machine.call(CreateDomain(dom=dom, frames=8))
        for dom, frame in ((1, ONE), (2, TWO)):
            self.machine.call(GrantAccess(frame=frame, dom=3), dom)
        self.contents.page(ONE)[:] = bytes(n % 251 for n in range(PAGE_SIZE))

    def copy(self, **fields: int) -> Copy:
        return self.machine.call(Copy(**fields), 3)

    def status(self, **fields: int) -> GntStatus | None:
        """The status of a copy that is refused: nothing may be copied then."""
        before = snapshot(self.machine), {f: bytes(self.contents.page(f)) for f in (ONE, TWO, THREE)}
        with pytest.raises(HypercallError) as caught:
            self.copy(**fields)
        assert (snapshot(self.machine), {f: bytes(self.contents.page(f)) for f in (ONE, TWO, THREE)}) == before
        return caught.value.status

    def bytes(self, frame: int, start: int, stop: int) -> bytes:
        return bytes(self.contents.page(frame)[start:stop])


@pytest.fixture
def pages() -> Pages:
    return Pages()


IN = {"source": 8, "source_domid": 1, "dest": THREE, "flags": FROM_REF}
OUT = {"source": THREE, "dest": 8, "dest_domid": 2, "flags": TO_REF}


def test_from_a_grant_to_a_frame(pages: Pages) -> None:
    done = pages.copy(**IN, source_offset=10, dest_offset=100, len=5)
    assert done.status == GntStatus.okay
    assert pages.bytes(THREE, 99, 106) == b"\0" + pages.bytes(ONE, 10, 15) + b"\0"


def test_from_a_frame_to_a_grant(pages: Pages) -> None:
    pages.contents.page(THREE)[:4] = b"data"
    pages.copy(**OUT, len=4)
    assert pages.bytes(TWO, 0, 5) == b"data\0"


def test_between_two_grants_of_different_domains(pages: Pages) -> None:
    pages.copy(source=8, source_domid=1, dest=8, dest_domid=2, len=PAGE_SIZE, flags=FROM_REF | TO_REF)
    assert pages.bytes(TWO, 0, PAGE_SIZE) == pages.bytes(ONE, 0, PAGE_SIZE)


def test_between_two_frames_of_ones_own(pages: Pages) -> None:
    pages.contents.page(THREE)[:3] = b"own"
    pages.copy(source=THREE, dest=THREE + 1, len=3)
    assert pages.bytes(THREE + 1, 0, 3) == b"own"


@pytest.mark.parametrize(("source", "dest"), [(0, 2), (2, 0)])
def test_overlapping_ranges_of_one_page_come_out_right(pages: Pages, source: int, dest: int) -> None:
    pages.contents.page(THREE)[:8] = b"abcdefgh"
    expected = bytearray(b"abcdefgh")
    expected[dest : dest + 6] = b"abcdefgh"[source : source + 6]
    pages.copy(source=THREE, source_offset=source, dest=THREE, dest_offset=dest, len=6)
    assert pages.bytes(THREE, 0, 8) == expected


@pytest.mark.parametrize(("offset", "length"), [(0, PAGE_SIZE), (PAGE_SIZE - 1, 1), (PAGE_SIZE // 2, PAGE_SIZE // 2)])
def test_up_to_the_very_end_of_the_page(pages: Pages, offset: int, length: int) -> None:
    pages.copy(**IN, source_offset=offset, dest_offset=offset, len=length)
    assert pages.bytes(THREE, offset, PAGE_SIZE) == pages.bytes(ONE, offset, PAGE_SIZE)


@pytest.mark.parametrize("side", ["source_offset", "dest_offset"])
@pytest.mark.parametrize(
    ("offset", "length"),
    [(1, PAGE_SIZE), (PAGE_SIZE, 1), (PAGE_SIZE - 1, 2), (0, 0xFFFF), (0xFFFF, 1), (0xFFFF, 0xFFFF)],
)
def test_beyond_the_page_on_either_side_is_bad_copy_arg(pages: Pages, side: str, offset: int, length: int) -> None:
    assert pages.status(**IN, **{side: offset}, len=length) is GntStatus.bad_copy_arg


@pytest.mark.parametrize(
    "fields",
    [
        {"source": 0, "dest": 0},
        {"source": 99, "source_domid": 9, "dest": 99, "dest_domid": 9, "flags": 0xFFFF},
        {"source": 0, "source_offset": 0xFFFF, "dest": 0, "dest_offset": 0xFFFF},
    ],
)
def test_no_bytes_succeed_without_a_check(pages: Pages, fields: dict[str, int]) -> None:
    before = snapshot(pages.machine)
    assert pages.copy(**fields, len=0).status == GntStatus.okay
    assert snapshot(pages.machine) == before


# xen-interfaces.md 4.3, in its order: what comes later in a row is wrong too where it can be.
FAR = {"source_offset": 0xFFFF, "len": 8}
REFUSALS = [
    ("frame of another, by number", {"source": ONE, "source_domid": 1, "dest": 99, **FAR}, "permission_denied"),
    ("dest of another, by number", {"source": THREE, "dest": ONE, "dest_domid": 1, **FAR}, "permission_denied"),
    ("no such source domain", {"source": 99, "source_domid": 9, "dest": 99, "flags": 1, **FAR}, "bad_domain"),
    ("no such dest domain", {"source": 99, "dest": 99, "dest_domid": 9, "flags": 2, **FAR}, "bad_domain"),
    ("out of the page", {"source": 1 << 40, "source_domid": 1, "dest": 99, "flags": 1, **FAR}, "bad_copy_arg"),
    ("source beyond the table", {"source": 1 << 40, "source_domid": 1, "dest": 99, "flags": 1, "len": 8}, "bad_gntref"),
    ("dest beyond the table", {"source": THREE, "dest": 32768, "dest_domid": 1, "flags": 2, "len": 8}, "bad_gntref"),
    ("source unused", {"source": 9, "source_domid": 1, "dest": THREE, "flags": 1, "len": 8}, "general_error"),
    ("source for another", {"source": 8, "source_domid": 0, "dest": THREE, "flags": 1, "len": 8}, "general_error"),
    ("source an offer", {"source": 9, "source_domid": 2, "dest": THREE, "flags": 1, "len": 8}, "general_error"),
    ("dest read-only", {"source": THREE, "dest": 10, "dest_domid": 2, "flags": 2, "len": 8}, "general_error"),
    ("source not owned", {"source": ONE, "dest": THREE, "len": 8}, "bad_page"),
    ("dest not owned", {"source": THREE, "dest": 63, "len": 8}, "bad_page"),
]


@pytest.mark.parametrize(("fields", "status"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS])
def test_a_copy_is_refused_in_xens_order(pages: Pages, fields: dict[str, int], status: str) -> None:
    pages.machine.call(GrantAccess(frame=0, dom=1), 0)
    pages.machine.call(AcceptTransfer(dom=3), 2)
    pages.machine.call(GrantAccess(frame=TWO, dom=3, flags=4), 2)
    assert pages.status(**fields) is GntStatus[status]


def test_a_read_only_grant_can_be_copied_from(pages: Pages) -> None:
    ref = pages.machine.call(GrantAccess(frame=ONE, dom=3, flags=4), 1).ref
    pages.copy(**{**IN, "source": ref}, len=4)
    assert pages.bytes(THREE, 0, 4) == pages.bytes(ONE, 0, 4)


def test_unknown_flags_are_refused(pages: Pages) -> None:
    with pytest.raises(HypercallError):
        pages.copy(source=THREE, dest=THREE, len=1, flags=4)


def test_a_revoked_grant_cannot_be_copied_from_even_while_it_is_mapped(pages: Pages) -> None:
    pages.machine.call(MapGrantRef(ref=8, dom=1), 3, world=True)
    pages.machine.call(EndAccess(ref=8, flags=1), 1)
    assert pages.status(**IN, len=4) is GntStatus.general_error


def test_a_dead_domains_grant_cannot_be_copied_from(pages: Pages) -> None:
    pages.machine.call(DestroyDomain(dom=1))
    assert pages.status(**IN, len=4) is GntStatus.bad_domain


def test_a_domain_copies_through_its_own_grant(pages: Pages) -> None:
    ref = pages.machine.call(GrantAccess(frame=THREE, dom=DOMID_SELF), 3).ref
    pages.contents.page(THREE)[:3] = b"own"
    pages.copy(source=ref, source_domid=DOMID_SELF, dest=THREE + 1, len=3, flags=FROM_REF)
    assert pages.bytes(THREE + 1, 0, 3) == b"own"


def test_a_copy_leaves_no_pin(pages: Pages) -> None:
    before = snapshot(pages.machine)
    pages.copy(source=8, source_domid=1, dest=8, dest_domid=2, len=16, flags=FROM_REF | TO_REF)
    assert snapshot(pages.machine) == before
