"""Grants: who may map what, in which order it is checked, and what a mapping keeps in place."""

from __future__ import annotations

import errno
from typing import TypeVar

import pytest

from xenfs.abi.grant_table import (
    GetVersion,
    GntStatus,
    MapGrantRef,
    QuerySize,
    SetVersion,
    SwapGrantRef,
    UnmapGrantRef,
)
from xenfs.abi.wire import Wire
from xenfs.abi.xen import DOMID_SELF
from xenfs.abi.xenfs_op import (
    AcceptTransfer,
    AllocFrame,
    CloseHandle,
    CreateDomain,
    EndAccess,
    EndTransfer,
    FreeFrame,
    GrantAccess,
    OpenHandle,
)
from xenfs.hypervisor import Config, Limits, Machine
from xenfs.hypervisor.errors import HypercallError
from xenfs.hypervisor.snapshot import snapshot
from xenfs.hypervisor.state import PIN_MAX

R = TypeVar("R", bound=Wire)
FIRST = 16
"""The first frame of domain 1, the granter; domain 2 is the grantee, domain 3 a stranger."""
TABLE_END = 8 + 5
READONLY, HOST_MAP, MAP_READONLY = 4, 2, 6


class Table:
    """A machine with a granter, a grantee and a stranger."""

    def __init__(self, limits: Limits) -> None:
        self.machine = Machine(Config(frames=64, dom0_frames=16, limits=limits))
        for dom in (1, 2, 3):
            self.machine.call(CreateDomain(dom=dom, frames=8))

    def __call__(self, request: R, domid: int = 1, handle: int = 0) -> R:
        world = isinstance(request, (OpenHandle, CloseHandle, MapGrantRef, UnmapGrantRef))
        return self.machine.call(request, domid, handle, world=world)

    def refuses(self, request: Wire, domid: int = 1) -> tuple[str, str]:
        """The errno and the status by name, less GNTST_."""
        before = snapshot(self.machine)
        with pytest.raises(HypercallError) as caught:
            self(request, domid)
        assert snapshot(self.machine) == before
        status = caught.value.status
        return errno.errorcode[caught.value.errno], "" if status is None else status.name

    def grant(self, frame: int = FIRST, dom: int = 2, flags: int = 0) -> int:
        return self(GrantAccess(frame=frame, dom=dom, flags=flags)).ref

    def map(self, ref: int, flags: int = HOST_MAP, domid: int = 2, handle: int = 0) -> int:
        return self(MapGrantRef(ref=ref, dom=1, flags=flags), domid, handle).handle

    def unmap(self, mapping: int, domid: int = 2) -> None:
        self(UnmapGrantRef(handle=mapping), domid)

    def open(self, domid: int) -> int:
        return self(OpenHandle(), domid).handle

    def refs(self, domid: int = 1) -> list[int]:
        return sorted(self.machine.state.domains[domid].grants)

    def frame_maps(self, frame: int = FIRST) -> int:
        record = self.machine.state.busy.get(frame)
        return record.maps if record else 0


@pytest.fixture
def table() -> Table:
    return Table(Limits(grants=5, maps=4))


@pytest.fixture
def wide() -> Table:
    return Table(Limits())


def test_references_begin_at_8_and_come_lowest_first(table: Table) -> None:
    assert [table.grant() for _ in range(3)] == [8, 9, 10]
    table(EndAccess(ref=9))
    table(EndAccess(ref=8))
    assert [table.grant() for _ in range(3)] == [8, 9, 11]


def test_a_full_table_is_enospc_until_an_entry_ends(table: Table) -> None:
    refs = [table.grant() for _ in range(5)]
    assert table.refuses(GrantAccess(frame=FIRST, dom=2)) == ("ENOSPC", "no_space")
    assert table.refuses(AcceptTransfer(dom=2)) == ("ENOSPC", "no_space")
    table(EndAccess(ref=refs[2]))
    assert table.grant() == refs[2]


def test_offers_and_grants_share_one_table(table: Table) -> None:
    assert [table.grant(), table(AcceptTransfer(dom=2)).ref, table.grant()] == [8, 9, 10]


@pytest.mark.parametrize("flags", [1, 2, 8, 16, 256, 5, 0xFFFF])
def test_only_readonly_is_a_flag_of_a_grant(table: Table, flags: int) -> None:
    assert table.refuses(GrantAccess(frame=FIRST, dom=2, flags=flags))[0] == "EINVAL"


@pytest.mark.parametrize("dom", [0, 2, 9, 0x7FF1, 0xFFFF])
def test_a_grant_may_be_for_any_domain_there_or_not(table: Table, dom: int) -> None:
    assert table.machine.state.domains[1].grants[table.grant(dom=dom)].grantee == dom


def test_self_is_the_granter(table: Table) -> None:
    ref = table.grant(dom=DOMID_SELF)
    mapping = table(MapGrantRef(ref=ref, dom=DOMID_SELF)).handle
    assert table.machine.state.domains[1].maps[mapping].frame.number == FIRST


# The order of checks of xen-interfaces.md 4.3: each row is refused for its reason and for all that follow it.
MAP_REFUSALS = [
    ("neither host nor device map", {"flags": READONLY, "dom": 9, "ref": 99}, "ENOENT", GntStatus.bad_gntref),
    ("no such domain", {"flags": HOST_MAP, "dom": 9, "ref": 99}, "ESRCH", GntStatus.bad_domain),
    ("beyond the table", {"flags": HOST_MAP, "dom": 1, "ref": TABLE_END}, "ENOENT", GntStatus.bad_gntref),
    ("huge", {"flags": HOST_MAP, "dom": 1, "ref": 0xFFFFFFFF}, "ENOENT", GntStatus.bad_gntref),
    ("reserved, unused", {"flags": HOST_MAP, "dom": 1, "ref": 0}, "EACCES", GntStatus.general_error),
    ("unused", {"flags": HOST_MAP, "dom": 1, "ref": TABLE_END - 1}, "EACCES", GntStatus.general_error),
    ("accepts a transfer", {"flags": HOST_MAP, "dom": 1, "ref": 8}, "EACCES", GntStatus.general_error),
    ("for another", {"flags": HOST_MAP, "dom": 1, "ref": 9}, "EACCES", GntStatus.general_error),
    ("read-only", {"flags": HOST_MAP, "dom": 1, "ref": 10}, "EACCES", GntStatus.general_error),
]


@pytest.mark.parametrize(("fields", "error", "status"), [r[1:] for r in MAP_REFUSALS], ids=[r[0] for r in MAP_REFUSALS])
def test_a_map_is_refused_in_xens_order(table: Table, fields: dict[str, int], error: str, status: GntStatus) -> None:
    table(AcceptTransfer(dom=2))
    table.grant(dom=3)
    table.grant(flags=READONLY)
    assert table.refuses(MapGrantRef(**fields), 2) == (error, status.name)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"flags": READONLY, "dom": 1, "ref": 8}, "bad_gntref"),
        ({"dom": 9, "ref": 8}, "bad_domain"),
        ({"dom": 1, "ref": 99}, "no_space"),
        ({"dom": 1, "ref": 8}, "no_space"),
    ],
)
def test_a_full_maptrack_comes_after_the_domain_and_before_the_reference(
    table: Table, fields: dict[str, int], status: str
) -> None:
    ref = table.grant()
    for _ in range(4):
        table.map(ref)
    assert table.refuses(MapGrantRef(**fields), 2)[1] == status


def test_the_maptrack_is_the_grantees_own_and_a_freed_number_is_reused(table: Table) -> None:
    ref, other = table.grant(), table.grant(dom=3)
    mappings = [table.map(ref) for _ in range(4)]
    assert mappings == [0, 1, 2, 3]
    assert table.map(other, domid=3) == 0
    table.unmap(2)
    assert table.map(ref) == 2


@pytest.mark.parametrize(("first", "second"), [(HOST_MAP, MAP_READONLY), (MAP_READONLY, HOST_MAP)])
def test_one_grant_has_at_most_255_mappings_of_each_kind(wide: Table, first: int, second: int) -> None:
    ref = wide.grant()
    for _ in range(PIN_MAX):
        wide.map(ref, first)
    assert wide.refuses(MapGrantRef(ref=ref, dom=1, flags=first), 2) == ("EACCES", "general_error")
    for _ in range(PIN_MAX):
        wide.map(ref, second)
    assert wide.frame_maps() == 2 * PIN_MAX


@pytest.mark.parametrize("flags", [1, 2, 3, 5, 6, 2 | 8 | 16])
def test_a_writable_grant_maps_with_any_flags_that_map(table: Table, flags: int) -> None:
    ref = table.grant()
    mapping = table.map(ref, flags)
    grant = table.machine.state.domains[1].grants[ref]
    assert (grant.readers, grant.writers) == ((1, 0) if flags & READONLY else (0, 1))
    table.unmap(mapping)
    assert (grant.readers, grant.writers) == (0, 0)


def test_a_read_only_grant_maps_read_only(table: Table) -> None:
    table.map(table.grant(flags=READONLY), MAP_READONLY)
    assert table.frame_maps() == 1


@pytest.mark.parametrize("mapping", [0, 1, 0xFFFFFFFF])
def test_unmapping_what_is_not_mapped_is_bad_handle(table: Table, mapping: int) -> None:
    table.grant()
    assert table.refuses(UnmapGrantRef(handle=mapping), 2) == ("EINVAL", "bad_handle")


def test_end_access_is_refused_while_mapped_and_then_done(table: Table) -> None:
    ref = table.grant()
    mapping = table.map(ref)
    assert table.refuses(EndAccess(ref=ref)) == ("EBUSY", "eagain")
    table.unmap(mapping)
    table(EndAccess(ref=ref))
    assert table.refs() == []
    assert FIRST in table.machine.state.domains[1].idle


def test_a_deferred_end_revokes_at_once_and_frees_with_the_last_mapping(table: Table) -> None:
    ref = table.grant()
    mappings = [table.map(ref), table.map(ref, MAP_READONLY)]
    table(EndAccess(ref=ref, flags=1))
    assert table.refuses(MapGrantRef(ref=ref, dom=1), 2) == ("EACCES", "general_error")
    table.unmap(mappings[0])
    assert table.refs() == [ref]
    assert table.grant() != ref
    table.unmap(mappings[1])
    assert ref not in table.refs()


def test_a_deferred_end_of_what_is_not_mapped_ends_now(table: Table) -> None:
    table(EndAccess(ref=table.grant(), flags=1))
    assert table.refs() == []


def test_ending_what_is_ending_changes_nothing(table: Table) -> None:
    ref = table.grant()
    table.map(ref)
    table(EndAccess(ref=ref, flags=1))
    before = snapshot(table.machine)
    table(EndAccess(ref=ref, flags=1))
    assert snapshot(table.machine) == before
    assert table.refuses(EndAccess(ref=ref)) == ("EBUSY", "eagain")


def test_ending_needs_an_entry_of_its_own_kind(table: Table) -> None:
    ref, offer = table.grant(), table(AcceptTransfer(dom=2)).ref
    assert table.refuses(EndAccess(ref=11)) == ("ENOENT", "bad_gntref")
    assert table.refuses(EndAccess(ref=ref), 2) == ("ENOENT", "bad_gntref")
    assert table.refuses(EndAccess(ref=offer)) == ("EACCES", "general_error")
    assert table.refuses(EndTransfer(ref=ref)) == ("EACCES", "general_error")


def test_two_grants_of_one_frame_end_one_by_one(table: Table) -> None:
    table(AllocFrame())
    refs = [table.grant(), table.grant(dom=3)]
    table(EndAccess(ref=refs[0]))
    assert table.refuses(FreeFrame(frame=FIRST))[0] == "EBUSY"
    table(EndAccess(ref=refs[1]))
    table(FreeFrame(frame=FIRST))
    assert not table.machine.state.busy


def test_closing_the_granters_handle_ends_what_is_not_mapped_and_defers_the_rest(table: Table) -> None:
    handle = table.open(1)
    frame = table(AllocFrame(), 1, handle).frame
    refs = [table(GrantAccess(frame=frame, dom=2), 1, handle).ref for _ in range(2)]
    mapping = table.map(refs[1])
    table(CloseHandle(handle=handle))
    assert table.refs() == [refs[1]]
    assert table.machine.state.domains[1].grants[refs[1]].ending
    assert table(AllocFrame()).frame != frame
    table.unmap(mapping)
    assert table.refs() == []
    assert frame in table.machine.state.domains[1].idle


def test_closing_the_grantees_handle_unmaps(table: Table) -> None:
    handle = table.open(2)
    ref = table.grant()
    table.map(ref, handle=handle)
    table.map(ref)
    table(CloseHandle(handle=handle), 2)
    assert table.frame_maps() == 1


def test_a_mapping_may_be_ended_through_any_handle_of_its_domain_only(table: Table) -> None:
    mapping = table.map(table.grant(), handle=table.open(2))
    assert table.refuses(UnmapGrantRef(handle=mapping), 3) == ("EINVAL", "bad_handle")
    table.unmap(mapping)
    assert table.frame_maps() == 0


def test_query_size_counts_pages_of_512_entries() -> None:
    table = Table(Limits(grants=2000))
    assert table(QuerySize()).nr_frames == 1
    for _ in range(600):
        table.grant()
    size = table(QuerySize())
    assert (size.nr_frames, size.max_nr_frames, size.status) == (2, 4, 0)
    assert table(QuerySize(dom=1), 0) == QuerySize(dom=1, nr_frames=2, max_nr_frames=4)
    assert table.refuses(QuerySize(dom=1), 2) == ("EPERM", "permission_denied")
    assert table.refuses(QuerySize(dom=9), 0) == ("ESRCH", "bad_domain")


def test_xens_default_table_has_64_pages() -> None:
    assert Table(Limits())(QuerySize()).max_nr_frames == 64


def test_there_is_version_1_only(table: Table) -> None:
    assert table(SetVersion(version=1)) == SetVersion(version=1)
    assert table.refuses(SetVersion(version=2))[0] == "ENOSYS"
    assert table.refuses(SetVersion(version=0))[0] == "EINVAL"
    assert table(GetVersion()).version == 1
    assert table.refuses(GetVersion(dom=2))[0] == "EPERM"


def test_swapped_entries_keep_what_they_grant_under_each_others_number(table: Table) -> None:
    a, b = table.grant(FIRST), table.grant(FIRST + 1, dom=3)
    table(SwapGrantRef(ref_a=a, ref_b=b))
    grants = table.machine.state.domains[1].grants
    assert [(grants[r].ref, grants[r].grantee) for r in (a, b)] == [(a, 3), (b, 2)]
    table.map(b)
    assert table.frame_maps(FIRST) == 1
    table(EndAccess(ref=a))
    assert table.refs() == [b]
    assert FIRST + 1 in table.machine.state.domains[1].idle


@pytest.mark.parametrize(
    ("a", "b", "status"), [(8, TABLE_END, "bad_gntref"), (TABLE_END, 8, "bad_gntref"), (8, 9, "eagain")]
)
def test_a_swap_needs_entries_in_the_table_that_nobody_maps(table: Table, a: int, b: int, status: str) -> None:
    table.grant()
    table.map(table.grant())
    assert table.refuses(SwapGrantRef(ref_a=a, ref_b=b))[1] == status


def test_a_swap_checks_both_references_before_who_maps_them(table: Table) -> None:
    table.map(table.grant())
    assert table.refuses(SwapGrantRef(ref_a=8, ref_b=TABLE_END))[1] == "bad_gntref"
