"""Looks at a machine in which what is looked at is taken away and made again between two of them."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import closing

import pytest
from xentop.look import Look

from tests.conformance.world import Mount
from tests.top.lab import PAGE, RING
from xenfs.abi.ring import HEADER
from xenfs.abi.xenfs_op import CreateDomain, DestroyDomain
from xenfs.domain.mounted import MountedDomain
from xenfs.xenstore.connection import EVENTS

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def root(bare: Mount) -> Iterator[MountedDomain]:
    """Domain 0, of a machine that has a domain 1 besides."""
    with MountedDomain(0, bare.root) as made:
        made.call(CreateDomain(name="alpha", dom=1, frames=64))
        yield made


@pytest.fixture
def look(bare: Mount, root: MountedDomain) -> Iterator[Look]:
    del root
    with closing(Look(str(bare.root))) as made:
        yield made


def ring(bare: Mount, requests: int) -> tuple[MountedDomain, int]:
    """Domain 1 with a ring in which so many requests have been put, and the ring's frame."""
    domain = MountedDomain(1, bare.root)
    (frame,) = domain.memory.alloc(1)
    page = bytearray(PAGE)
    HEADER.pack_into(page, 0, requests, 0, 0, 0, *HEADER.unpack(bytes(HEADER.size))[4:])
    domain.memory.write_frames([frame], memoryview(page))
    domain.memory.name_ring(RING, frame)
    return domain, frame


def seen(look: Look) -> list[tuple[int, int, int]]:
    return [(one.domid, one.frame, one.req_prod) for one in look.sample().rings]


def test_a_ring_that_is_made_again_on_the_same_frame(bare: Mount, look: Look) -> None:
    domain, frame = ring(bare, 3)
    assert seen(look) == [(1, frame, 3)]
    domain.close()
    domain, again = ring(bare, 4)
    assert again == frame, "else nothing is tried here"
    assert seen(look) == [(1, frame, 4)]
    domain.close()
    assert seen(look) == []


def test_a_ring_of_another_domain_of_the_same_number(bare: Mount, root: MountedDomain, look: Look) -> None:
    domain, frame = ring(bare, 3)
    assert seen(look) == [(1, frame, 3)]
    root.call(DestroyDomain(dom=1))
    domain.close()
    root.call(CreateDomain(name="beta", dom=1, frames=64))
    domain, again = ring(bare, 4)
    assert again == frame, "else nothing is tried here"
    assert seen(look) == [(1, frame, 4)]
    domain.close()


def test_a_guest_that_writes_more_than_is_kept_for_who_does_not_look(root: MountedDomain, look: Look) -> None:
    home = "/local/domain/1/data"
    for number in range(EVENTS // 1800 + 1):
        root.store.write(f"{home}/{number:01800}", "1")
    root.store.write(f"{home}/last", "1")
    look.sample("store")
    assert look.mirror.read(f"{home}/last") == b"1"
    root.store.write(f"{home}/last", "2")
    root.store.rm(f"{home}/{0:01800}")
    look.sample("store")
    assert look.mirror.read(f"{home}/last") == b"2"
    assert set(look.mirror.list(home)) == set(root.store.list(home))


def test_more_named_pages_than_files_that_may_be_open(bare: Mount, root: MountedDomain) -> None:
    """They are a guest's, and there is to be a look all the same, at rings first."""
    root.call(CreateDomain(name="many", dom=2, frames=256))
    with MountedDomain(2, bare.root) as many:
        for number, frame in enumerate(many.memory.alloc(250)):
            kind = ("stats", "page", "ring")[number % 3]
            many.memory.name_ring(f"echo-{number:03}-{kind}", frame)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64 + 100, before[1]))
        try:
            with closing(Look(str(bare.root))) as look:
                assert len(look.sample("pages").rings) == 83
                look.frame(2, many.memory.alloc(1)[0])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert root.store.exists("/local/domain/2")
