"""The naive model of a machine: every hypercall, by looking through the list of all things."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.property.things import CONFIG, HEAD, WILD_NAME, Key, Results, Thing, Things, no
from xenfs.abi import event_channel as ec
from xenfs.abi import grant_table as gt
from xenfs.abi import xenfs_op as op
from xenfs.abi.xen import DOMID_SELF, PAGE_SIZE, Virq
from xenfs.hypervisor import errors as e


@dataclass(eq=False)
class Naive(Things):
    """The machine, and what may be asked of it."""

    def create_domain(self, _me: int, _key: Key, r: op.CreateDomain) -> Results:
        if r.max_frames > CONFIG.frames:
            no(e.Invalid)
        if r.dom in self.live:
            no(e.DomainExists)
        if r.frames > min(len(self.free()), r.max_frames):
            no(e.NoFrame)
        me = len(self.most)
        self.live[r.dom], self.most[me] = me, r.max_frames
        self.grow(me, r.frames)
        return {"domid": r.dom}

    def destroy_domain(self, _me: int, _key: Key, r: op.DestroyDomain) -> Results:
        me = self.find(r.dom) or no(e.NotPermitted)
        self.closing += [*(("handle", n) for n in self.open(me)), ("root", me)]
        del self.live[r.dom]
        self.go_on(CONFIG.slice)
        self.raised(Virq.DOM_EXC)
        return {}

    def open_handle(self, me: int, _key: Key, _r: op.OpenHandle) -> Results:
        if len(self.open(me)) >= self.limits(me).handles:
            no(e.TooManyHandles)
        self.handles_made += 1
        self.handles[self.handles_made] = me
        return {"handle": self.handles_made}

    def close_handle(self, me: int, _key: Key, r: op.CloseHandle) -> Results:
        if r.handle not in (h for who in self.live.values() if me in (0, who) for h in self.open(who)):
            no(e.NoSuchHandle)
        self.closing.append(("handle", r.handle))
        self.go_on(CONFIG.slice)
        return {}

    def reap(self, _me: int, _key: Key, r: op.Reap) -> Results:
        self.go_on(r.budget)
        return {"left": len(self.closing)}

    def alloc_frame(self, me: int, key: Key, _r: op.AllocFrame) -> Results:
        frame = next(iter(self.idle(me)), None)
        if frame is None:
            no(e.NoFrame)
        self.give(frame, me)
        self.things.append(Thing("hold", me, key, frame=frame))
        return {"frame": frame}

    def free_frame(self, me: int, _key: Key, r: op.FreeFrame) -> Results:
        if self.owner.get(r.frame) != me:
            no(e.NotOwned)
        if not r.flags:
            self.movable(me, r.frame)
        elif not (self.held(r.frame) or self.used(r.frame)):
            no(e.Invalid)
        hold = self.held(r.frame) if r.flags else self.held(r.frame) or no(e.Invalid)
        if hold is not None:
            self.release(hold)
        return {}

    def increase_reservation(self, me: int, key: Key, _r: op.IncreaseReservation) -> Results:
        frame = next(iter(self.free()), None)
        if frame is None or len(self.owned(me)) >= self.most[me]:
            no(e.NoFrame)
        self.give(frame, me)
        self.things.append(Thing("hold", me, key, frame=frame))
        self.balance[key] += 1
        return {"frame": frame}

    def decrease_reservation(self, me: int, key: Key, r: op.DecreaseReservation) -> Results:
        hold = self.movable(me, r.frame)
        self.things = [t for t in self.things if t is not hold]
        self.give(r.frame, None)
        self.balance[key] -= 1
        return {}

    def set_memory(self, me: int, _key: Key, r: op.SetMemory) -> Results:
        you = self.target(me, r.dom)
        more, idle = r.frames - len(self.owned(you)), self.idle(you)
        if more > 0:
            self.grow(you, more)
        elif -more > len(idle):
            no(e.FrameInUse)
        for frame in idle[::-1][: max(0, -more)]:
            self.give(frame, None)
        return {}

    def set_max_memory(self, me: int, _key: Key, r: op.SetMaxMemory) -> Results:
        self.most[self.find(r.dom) if not me else no(e.NotPermitted)] = r.frames
        return {}

    def name_ring(self, me: int, key: Key, r: op.NameRing) -> Results:
        if r.name == WILD_NAME:
            no(e.Invalid)
        if (other := self.get("ring", me, r.name)) and not self.closed(other):
            no(e.NameTaken)
        if self.owner.get(r.frame) != me:
            no(e.NotOwned)
        if any(not self.closed(ring) for ring in self.on(r.frame, "ring")):
            no(e.FrameInUse)
        for stale in [t for t in self.things if t is other or t in self.on(r.frame, "ring")]:
            self.release(stale)
        self.things.append(Thing("ring", me, key, r.name, r.frame))
        return {}

    def unname_ring(self, me: int, _key: Key, r: op.UnnameRing) -> Results:
        self.release(self.get("ring", me, r.name) or no(e.NoSuchName))
        return {}

    def new_grant(self, me: int, key: Key, to: int, **rest: Any) -> Results:
        grant = self.new("grant", me, key, 8, self.limits(me).grants, e.NoFreeGrant, to=to, **rest)
        return {"ref": int(grant.number)}

    def grant_access(self, me: int, key: Key, r: op.GrantAccess) -> Results:
        if self.owner.get(r.frame) != me:
            no(e.NotOwned)
        if r.flags not in (0, 4):
            no(e.Invalid)
        return self.new_grant(me, key, r.dom, frame=r.frame, readonly=bool(r.flags))

    def end_access(self, me: int, _key: Key, r: op.EndAccess) -> Results:
        grant = self.get("grant", me, r.ref) or no(e.BadGrantRef)
        if grant.offer:
            no(e.GrantRefused)
        if self.maps(grant) and not r.flags:
            no(e.GrantInUse)
        self.release(grant)
        return {}

    def reach(self, me: int, you: int, ref: int, write: bool) -> Thing:
        grant = self.get("grant", you, ref) or no(e.GrantRefused)
        allowed = not grant.ending and not self.closed(grant) and not grant.offer and grant.to == self.domid(me)
        return grant if allowed and not (write and grant.readonly) else no(e.GrantRefused)

    def map_grant_ref(self, me: int, key: Key, r: gt.MapGrantRef) -> Results:
        you = self.find(r.dom)
        if len(self.of("map", me)) >= self.limits(me).maps:
            no(e.NoFreeMapping)
        grant = self.reach(me, you, r.ref, not r.flags & 4)
        mapping = self.new("map", me, key, 0, 99, e.NoFreeMapping, frame=grant.frame, of=grant)
        self.maps_made += 1
        mapping.readonly, mapping.serial = bool(r.flags & 4), self.maps_made
        return {"handle": int(mapping.number)}

    def unmap_grant_ref(self, me: int, _key: Key, r: gt.UnmapGrantRef) -> Results:
        self.release(self.get("map", me, r.handle) or no(e.BadMapping))
        return {}

    def release_mapping(self, _me: int, _key: Key, r: op.ReleaseMapping) -> Results:
        self.release(next((t for t in self.of("map") if t.serial == r.mapping), None) or no(e.BadMapping))
        return {}

    def copy(self, me: int, _key: Key, r: gt.Copy) -> Results:
        sides = ((r.source, r.source_domid, r.flags & 1, False), (r.dest, r.dest_domid, r.flags & 2, True))
        if r.len == 0:
            return {}
        givers = [self.find(d) if ref else me if d == DOMID_SELF else no(e.NotPermitted) for _, d, ref, _ in sides]
        if max(r.source_offset, r.dest_offset) + r.len > PAGE_SIZE:
            no(e.BadCopyRange)
        found: list[int] = []
        for (number, _, ref, write), you in zip(sides, givers, strict=True):
            if not ref and self.owner.get(number) != me:
                no(e.NotOwned)
            found.append(self.reach(me, you, number, write).at if ref else number)
        self.write(found[1], r.dest_offset, self.head(found[0])[r.source_offset : r.source_offset + r.len])
        return {}

    def head(self, frame: int) -> bytes:
        return self.heads.get(frame, bytes(HEAD))

    def write(self, frame: int, at: int, data: bytes) -> None:
        self.heads[frame] = self.head(frame)[:at] + data + self.head(frame)[at + len(data) :]

    def accept_transfer(self, me: int, key: Key, r: op.AcceptTransfer) -> Results:
        return self.new_grant(me, key, r.dom, offer=True)

    def transfer(self, me: int, key: Key, r: gt.Transfer) -> Results:
        hold = self.movable(me, r.mfn)
        you = self.find(r.domid)
        if you != me and len(self.owned(you)) >= self.most[you]:
            no(e.NoHeadroom)
        offer = self.get("grant", you, r.ref) or no(e.GrantRefused)
        if (
            not offer.offer
            or offer.to != self.domid(me)
            or offer.frame is not None
            or offer.key is None
            or self.closed(offer)
        ):
            no(e.GrantRefused)
        self.things = [t for t in self.things if t is not hold]
        self.things.append(Thing("hold", you, offer.key, frame=r.mfn))
        self.owner[r.mfn], offer.frame = you, r.mfn
        self.balance[key] -= 1
        self.balance[offer.key] += 1
        return {}

    def end_transfer(self, me: int, _key: Key, r: op.EndTransfer) -> Results:
        grant = self.get("grant", me, r.ref) or no(e.BadGrantRef)
        if not grant.offer:
            no(e.GrantRefused)
        self.gone(grant)
        return {"completed": int(grant.frame is not None), "frame": grant.frame or 0}

    def new_port(self, me: int, key: Key, state: str, **rest: Any) -> Thing:
        return self.new("port", me, key, 1, self.limits(me).ports, e.NoFreePort, state=state, **rest)

    def port(self, me: int, number: int) -> Thing:
        port = self.get("port", me, number) or no(e.BadPort)
        return no(e.BadPort) if self.closed(port) else port

    def alloc_unbound(self, me: int, key: Key, r: ec.AllocUnbound) -> Results:
        you = self.target(me, r.dom)
        return {"port": int(self.new_port(you, key if you == me else ("root", you), "unbound", to=r.remote_dom).number)}

    def bind_interdomain(self, me: int, key: Key, r: ec.BindInterdomain) -> Results:
        peer = self.port(self.find(r.remote_dom), r.remote_port)
        if peer.state != "unbound" or peer.to != self.domid(me):
            no(e.BadPort)
        port = self.new_port(me, key, "interdomain", to=r.remote_dom, of=peer, events=1)
        peer.state, peer.of = "interdomain", port
        return {"local_port": int(port.number)}

    def bind_virq(self, me: int, key: Key, r: ec.BindVirq) -> Results:
        if r.virq > 23:
            no(e.Invalid)
        if me and r.virq == Virq.DOM_EXC:
            no(e.VirqElsewhere)
        for port in [t for t in self.of("port", me) if t.state == "virq" and t.to == r.virq]:
            self.release(port) if self.closed(port) else no(e.VirqTaken)
        return {"port": int(self.new_port(me, key, "virq", to=r.virq).number)}

    def bind_ipi(self, me: int, key: Key, _r: ec.BindIpi) -> Results:
        return {"port": int(self.new_port(me, key, "ipi").number)}

    def send(self, me: int, _key: Key, r: ec.Send) -> Results:
        port = self.port(me, r.port)
        if port.state == "virq":
            no(e.BadPort)
        if port.state != "unbound":
            (port.of or port).events += 1
        return {}

    def close(self, me: int, _key: Key, r: ec.Close) -> Results:
        self.release(self.port(me, r.port))
        return {}

    def reset(self, me: int, _key: Key, r: ec.Reset) -> Results:
        you = self.target(me, r.dom)
        self.resets += 1
        self.closing.append(("gone", self.resets))
        for port in self.of("port", you):
            port.kind, port.key = "ghost", ("gone", self.resets)
        self.go_on(CONFIG.slice)
        return {}
