"""A mounted machine and a bare one live the same random life: the same answers, the same table of frames.

XENFS_SEED to live one life again, XENFS_LIVES for more of them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.conformance.world import FRAMES
from tests.mounted.inside import Ctl
from tests.mounted.mount import Xen
from xenfs.abi.grant_table import GntMap, MapGrantRef
from xenfs.abi.wire import Wire
from xenfs.abi.xenfs_op import CloseHandle, CreateDomain, DestroyDomain, OpenHandle, ReleaseMapping
from xenfs.hypervisor import Config, Machine, text
from xenfs.hypervisor.errors import HypercallError
from xenfs.hypervisor.snapshot import frames_table
from xenfs.hypervisor.state import Frame
from xenfs.hypervisor.trace import Failure

SEED = int(os.environ.get("XENFS_SEED", random.randrange(1 << 30)))
LIVES = int(os.environ.get("XENFS_LIVES", "3"))
STEPS = 1200
DOMIDS = (1, 2, 3)


@dataclass(eq=False)
class Handle:
    """The same handle in both machines."""

    domid: int
    ctl: Ctl
    number: int
    alive: bool = True


@dataclass(eq=False)
class Mapping:
    """The same mapping in both: an open file, and what the bare machine calls it."""

    domid: int
    fd: int
    serial: int


class Life:
    """Both machines, and what is open in them."""

    def __init__(self, mnt: Xen, seed: int) -> None:
        self.mnt, self.rng = mnt, random.Random(seed)
        self.machine = Machine(Config(frames=FRAMES, lingering_maps=True))
        self.handles: list[Handle] = []
        self.mappings: list[Mapping] = []
        self.story: list[str] = []

    def bare(self, domid: int, number: int, line: str) -> str:
        """What the bare machine answers to a line."""
        request: Wire | None = None
        try:
            request = text.parse(line)
            return text.answer(self.machine.call(request, domid, number))
        except HypercallError as error:
            return text.refusal(Failure.of(error, request))
        finally:
            self.machine.settle()

    def world(self, request: Wire, domid: int = 0) -> Wire | None:
        """What the filesystem does on a domain's behalf; None when it is refused."""
        try:
            return self.machine.call(request, domid, world=True)
        except HypercallError:
            return None
        finally:
            self.machine.settle()

    def some(self, *choices: object) -> str:
        return str(self.rng.choice(choices))

    def frame(self) -> str:
        """A frame of some handle's, mostly."""
        held = [f.number for h in self.machine.state.handles.values() for f in h.owns if isinstance(f, Frame)]
        return self.some(*held, self.rng.randrange(FRAMES)) if held else "0"

    def line(self) -> str:
        """A call, mostly one that can succeed."""
        dom, ref, port = self.some(0, 1, 2, 3, "self"), self.some(8, 9, 10, 11, 12), self.some(1, 2, 3, 4)
        frame, other = self.frame(), self.frame()
        return self.some(
            *["alloc_frame"] * 4,
            *[f"grant_access frame={frame} dom={dom} flags={self.some(0, 0, 4)}"] * 3,
            *[f"transfer mfn={frame} domid={dom} ref={ref}"] * 3,
            *[f"accept_transfer dom={dom}"] * 2,
            f"free_frame frame={frame}",
            f"end_access ref={ref} flags={self.some(0, 0, 1)}",
            f"end_transfer ref={ref}",
            "increase_reservation",
            f"decrease_reservation frame={frame}",
            f"set_memory frames={self.rng.randrange(30)}",
            f"set_max_memory dom={dom} frames={self.rng.randrange(2000)}",
            f"copy source={frame} dest={other} len=9 source_domid=self dest_domid=self",
            f"swap_grant_ref ref_a={ref} ref_b={self.some(8, 9, 10)}",
            f"name_ring frame={frame} name=vif-{self.some(0, 1)}-tx",
            "unname_ring name=vif-0-tx",
            f"alloc_unbound remote_dom={dom}",
            f"bind_interdomain remote_dom={dom} remote_port={port}",
            f"bind_virq virq={self.some('timer', 'dom_exc')}",
            "bind_ipi",
            f"send port={port}",
            f"close port={port}",
            f"status port={port}",
            self.some("reset", "query_size", "current_reservation", "nonsense", "bind_ipi vcpu=9"),
        )

    def make(self) -> None:
        domid = self.rng.choice(DOMIDS)
        try:
            self.mnt.home(domid).mkdir()
            done = True
        except OSError:
            done = False
        self.story.append(f"mkdir {domid}: {done}")
        assert done == (self.world(CreateDomain(dom=domid)) is not None)

    def end(self) -> None:
        domid = self.rng.choice(DOMIDS)
        try:
            self.mnt.home(domid).rmdir()
            done = True
        except OSError:
            done = False
        self.story.append(f"rmdir {domid}: {done}")
        assert done == (self.world(DestroyDomain(dom=domid)) is not None)
        for handle in self.handles:
            handle.alive &= not (done and handle.domid == domid)

    def enter(self) -> None:
        domid = self.rng.choice((0, *DOMIDS))
        if len(self.handles) < 8 and self.mnt.home(domid).exists():
            answer = self.world(OpenHandle(), domid)
            assert isinstance(answer, OpenHandle)
            self.handles.append(Handle(domid, self.mnt.ctl(domid), answer.handle))
            self.story.append(f"open {domid}")

    def leave(self) -> None:
        if self.handles:
            handle = self.handles.pop(self.rng.randrange(len(self.handles)))
            handle.ctl.close()
            if handle.alive:
                self.world(CloseHandle(handle=handle.number), handle.domid)
            self.story.append(f"close {handle.domid}")

    def ask(self) -> None:
        living = [handle for handle in self.handles if handle.alive]
        if living:
            handle, line = self.rng.choice(living), self.line()
            answer = handle.ctl.ask(line)
            self.story.append(f"{handle.domid}: {line} -> {answer}")
            assert answer == self.bare(handle.domid, handle.number, line)

    def batch(self) -> None:
        living = [handle for handle in self.handles if handle.alive]
        if living:
            handle, lines = self.rng.choice(living), [self.line() for _ in range(20)]
            answers = handle.ctl.all(lines)
            self.story += [f"{handle.domid}: {line} => {answer}" for line, answer in zip(lines, answers, strict=True)]
            assert answers == [self.bare(handle.domid, handle.number, line) for line in lines]

    def map(self) -> None:
        domid, granter = self.rng.choice((0, *DOMIDS)), self.rng.choice((0, *DOMIDS))
        ref, readonly = self.rng.randrange(8, 13), self.rng.random() < 0.3
        path = self.mnt.home(domid) / "foreign" / str(granter) / str(ref)
        try:
            fd = os.open(path, os.O_RDONLY if readonly else os.O_RDWR)
        except OSError:
            fd = -1
        flags = int(GntMap.host_map | (GntMap.readonly if readonly else GntMap(0)))
        answer = self.world(MapGrantRef(dom=granter, ref=ref, flags=flags), domid)
        self.story.append(f"map {path.relative_to(self.mnt.root)} {readonly}: {fd >= 0}")
        assert (fd >= 0) == (answer is not None)
        if isinstance(answer, MapGrantRef):
            mapping = self.machine.state.domains[domid].maps[answer.handle]
            self.mappings.append(Mapping(domid, fd, mapping.serial))

    def unmap(self) -> None:
        if self.mappings:
            mapping = self.mappings.pop(self.rng.randrange(len(self.mappings)))
            os.close(mapping.fd)
            assert self.world(ReleaseMapping(mapping=mapping.serial)) is not None
            self.story.append(f"unmap of {mapping.domid}")

    def step(self) -> None:
        actions: list[Callable[[], None]] = [self.make, self.enter, self.enter, self.leave, *[self.ask] * 12]
        actions += [self.batch, *[self.map] * 6, *[self.unmap] * 3]
        if self.rng.random() < 0.03:
            actions = [self.end]
        self.rng.choice(actions)()
        assert (self.mnt.root / "hypervisor" / "frames").read_text() == frames_table(self.machine)

    def close(self) -> None:
        for mapping in self.mappings:
            os.close(mapping.fd)
        for handle in self.handles:
            handle.ctl.close()


@pytest.mark.parametrize("life", range(LIVES))
def test_a_mounted_machine_lives_as_a_bare_one(own_mnt: Xen, life: int) -> None:
    seed = SEED + life
    lived = Life(own_mnt, seed)
    try:
        for domid in DOMIDS:
            own_mnt.home(domid).mkdir()
            lived.world(CreateDomain(dom=domid))
        for _ in range(STEPS):
            lived.step()
        assert len(lived.story) > STEPS / 2
    except AssertionError as error:
        recent = "\n".join(lived.story[-40:])
        raise AssertionError(f"XENFS_SEED={seed}, after\n{recent}\n{error}") from error
    finally:
        lived.close()
