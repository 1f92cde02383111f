"""A C program on dev/gntalloc and dev/gntdev: what xen-interfaces.md D.2 says that real Xen answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import Inside, said
from tests.mounted.mount import Xen, until
from xenfs.hypervisor.snapshot import Counts

pytestmark = pytest.mark.timeout(110)

EXPECTED = """
gntalloc.read: -EINVAL
gntalloc.write: -EINVAL
gntalloc.lseek: -ESPIPE
gntalloc.unknown: -ENOTTY
gntalloc.efault: -EFAULT
gntalloc.mmap: -ENODEV
alloc.none: 0
alloc.one: 0
alloc.one.index: 0
alloc.one.ref>=8: 1
alloc.three: 0
alloc.three.index: 4096
alloc.three.distinct: 1
alloc.unknown_domain: 0
dealloc.bad_index: -EINVAL
dealloc.too_many: -EINVAL
dealloc.none: -EINVAL
dealloc.middle: 0
dealloc.middle_again: -EINVAL
dealloc.over_the_hole: -EINVAL
dealloc.rest: 0
alloc.again: 0
alloc.again.index: 20480
alloc.1025: -ENOSPC
alloc.1021_elsewhere: -ENOSPC
alloc.1020_elsewhere: 0
alloc.one_too_many: -ENOSPC
alloc.after_close: 0
gntdev.read: -EINVAL
gntdev.write: -EINVAL
gntdev.unknown: -ENOTTY
gntdev.set_max_grants: -ENOTTY
map.none: -EINVAL
map.65537: -EINVAL
map.two: 0
map.two.index: 0
map.one: 0
map.one.index: 8192
map.three: 0
map.three.index: 12288
map.bad_ref: 0
gntdev.mmap: -ENODEV
get_offset.not_mapped: -EINVAL
unmap.wrong_count: -ENOENT
unmap.unknown: -ENOENT
unmap.two: 0
unmap.two_again: -ENOENT
map.into_a_hole_of_its_size: 0
map.into_a_hole_of_its_size.index: 28672
map.into_a_larger_hole: 0
map.into_a_larger_hole.index: 0
unmap.any_count: 0
gntalloc.notify.no_page: -ENOENT
gntalloc.notify.action: -EINVAL
gntalloc.notify.port: -EINVAL
gntalloc.notify.both: 0
gntalloc.dealloc: 0
gntalloc.heard: 1
gntdev.notify.action: -EINVAL
gntdev.notify.port: -EINVAL
gntdev.notify.no_map: -ENOENT
gntdev.notify.event: 0
gntdev.unmap: 0
gntdev.heard: 1
copy.zeroed: 0
copy.zeroed.bytes: 0
copy.there_and_back: 0
copy.there_and_back.bytes: abcdefgh
copy.grant_to_grant: 0
copy.grant_to_grant.bytes: abcdefgh
copy.one_bad: 0
copy.one_bad.statuses: 0 -3 0
copy.refused: 0
copy.refused.statuses: -1 -2 -1
copy.read_of_readonly: 0
copy.read_of_readonly.status: 0
copy.crossing: -EINVAL
copy.crossing.bytes: ........
copy.no_grant: -EINVAL
copy.efault: -EFAULT
copy.nothing_out_of_page: -EINVAL
copy.nothing: 0
copy.nothing.status: 0
copy.no_segments: 0
"""
"""Two lines are of this machine: mmap of either device is ENODEV, since a frame is an inode; on Xen it maps."""


def test_every_case_ends_as_on_real_xen(mnt: Xen, inside: Inside, built: Callable[..., Path]) -> None:
    mnt.domain(1)
    before = mnt.counts(1)
    ours = said(inside(1, built("grant_cases.c")))
    assert ours.splitlines() == EXPECTED.split("\n")[1:-1]
    until(lambda: mnt.counts(1) == before)
    assert before == Counts(1024, 0, 0, 0)
