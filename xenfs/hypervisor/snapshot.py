"""The machine as plain data: for comparing two machines, for the files that show it, and for leak checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xenfs.hypervisor.machine import Machine
from xenfs.hypervisor.state import Domain, Grant, Port


@dataclass(frozen=True, slots=True)
class Counts:
    """Frames of one domain: owned, granted out (grants in force), mapped in, in flight (offers not yet fulfilled)."""

    owned: int
    granted: int
    mapped: int
    in_flight: int


def counts(domain: Domain) -> Counts:
    """The counts of a domain."""
    return Counts(len(domain.frames), domain.granted, len(domain.maps), domain.in_flight)


def _grant(grant: Grant) -> dict[str, Any]:
    return {
        "to": grant.grantee,
        "type": grant.type.name,
        "readonly": grant.readonly,
        "frame": None if grant.frame is None else grant.frame.number,
        "readers": grant.readers,
        "writers": grant.writers,
        "ending": grant.ending,
        "handle": grant.handle.number,
    }


def _port(port: Port) -> dict[str, Any]:
    return {
        "state": port.state.name,
        "remote_domid": port.remote_domid,
        "remote_port": port.peer.number if port.peer else None,
        "virq": port.virq,
        "vcpu": port.vcpu,
        "handle": port.handle.number,
        "line": port.line,
    }


def domain_snapshot(domain: Domain) -> dict[str, Any]:
    """Everything about one domain."""
    return {
        "name": domain.name,
        "uuid": domain.uuid,
        "state": domain.state,
        "max_frames": domain.max_frames,
        "frames": domain.frames.runs(),
        "idle": domain.idle.runs(),
        "grants": {ref: _grant(g) for ref, g in sorted(domain.grants.items())},
        "maps": {
            n: {
                "domid": m.grant.domain.domid,
                "ref": m.grant.ref,
                "frame": m.frame.number,
                "readonly": m.readonly,
                "handle": m.handle.number,
            }
            for n, m in sorted(domain.maps.items())
        },
        "ports": {n: _port(p) for n, p in sorted(domain.ports.items())},
        "rings": {name: (r.frame.number, r.handle.number) for name, r in sorted(domain.rings.items())},
        "handles": {n: {"owns": len(h.owns), "balance": h.balance} for n, h in sorted(domain.handles.items())},
    }


def snapshot(machine: Machine) -> dict[str, Any]:
    """Everything: equal snapshots mean equal machines."""
    state = machine.state
    return {
        "free": state.free.runs(),
        "busy": {
            n: {"owner": f.owner.domid, "holder": f.holder and f.holder.number, "grants": f.grants, "maps": f.maps}
            for n, f in sorted(state.busy.items())
        },
        "domains": {n: domain_snapshot(d) for n, d in sorted(state.domains.items())},
        "dying": [domain_snapshot(d) for d in state.dying],
        "closing": [(h.number, h.domain.domid, len(h.owns), h.balance) for h in state.closing],
    }


def frames_table(machine: Machine) -> str:
    """The text of hypervisor/frames: a line a domain, the dying behind the living, then the machine."""
    state = machine.state
    lines = [f"{'domid':<6} {'state':<9} {'owned':>8} {'granted':>8} {'mapped':>8} {'in_flight':>9}  name"]
    for domain in [*(d for _, d in sorted(state.domains.items())), *state.dying]:
        c = counts(domain)
        numbers = f"{c.owned:>8} {c.granted:>8} {c.mapped:>8} {c.in_flight:>9}"
        lines.append(f"{domain.domid:<6} {domain.state:<9} {numbers}  {domain.name}")
    lines.append(f"total {state.config.frames} free {len(state.free)}")
    return "\n".join(lines) + "\n"
