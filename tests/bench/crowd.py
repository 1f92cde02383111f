"""A machine with a crowd on it: domains with a network device each, connected as far as anybody can see.

Nobody drives the devices. A thread moves the indices of their rings and the counters of their statistics, and now and
then makes a hypercall and writes a node, as a machine in use does.
"""

from __future__ import annotations

import resource
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

from xenfs.abi.ring import HEADER, u32
from xenfs.abi.stats import Stats
from xenfs.abi.xenfs_op import CreateDomain
from xenfs.domain.mounted import MountedDomain
from xenfs.testing.mount import Mount
from xenfs.xenbus import Device

FRAMES = 1 << 17
POSTED = 256
"""Pages that each frontend has granted for packets to come: as many as a ring takes."""
_TICK, _CALLS = 0.1, 20
_SLOTS = 256
_BACK = MappingProxyType(
    {
        "frontend-id": "", "online": "1", "state": "4", "script": "vif-bridge", "mac": "00:16:3e:00:00:01",
        "bridge": "xenbr0", "handle": "0", "type": "vif", "feature-sg": "1", "feature-gso-tcpv4": "1",
        "feature-rx-copy": "1", "feature-split-event-channels": "1", "hotplug-status": "connected",
    }
)  # fmt: skip
_FRONT = MappingProxyType(
    {
        "backend-id": "0", "state": "4", "handle": "0", "mac": "00:16:3e:00:00:01", "mtu": "1500",
        "request-rx-copy": "1", "feature-rx-notify": "1", "feature-sg": "1",
    }
)  # fmt: skip


class Crowd:
    """The machine."""

    def __init__(self, folder: Path, count: int = 100, posted: int = POSTED) -> None:
        self.held = ExitStack()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
        self.point = folder / "xen"
        self._over = threading.Event()
        self._pages: list[tuple[memoryview, memoryview, memoryview]] = []
        with ExitStack() as undo:
            undo.callback(self.held.close)
            self.mount = Mount(self.point, FRAMES)
            self.held.callback(self.mount.close)
            self.mount.arm(200)
            self.root = self.held.enter_context(MountedDomain(0, self.point))
            for _ in range(count):
                self._add(posted)
            self._mover = threading.Thread(target=self._move, daemon=True)
            self._mover.start()
            self.held.callback(self._end)
            undo.pop_all()

    def _add(self, posted: int) -> None:
        """A domain with a device."""
        domid = self.root.call(CreateDomain()).domid
        domain = self.held.enter_context(MountedDomain(domid, self.point))
        frames = domain.memory.alloc(3)
        regions = [self.held.enter_context(domain.memory.view([frame])) for frame in frames]
        for name, frame in zip(("tx", "rx", "stats"), frames, strict=True):
            domain.memory.name_ring(f"vif-0-{name}", frame)
        refs = domain.memory.grant(frames[:2], 0)
        self.held.enter_context(self.root.memory.map(domid, refs))
        if posted:
            domain.memory.grant(domain.memory.alloc(posted), 0)
        ports = {}
        for name in ("tx", "rx"):
            ports[name] = domain.events.alloc_unbound(0).port
            self.root.events.bind_interdomain(domid, ports[name])
        self._write(Device("vif", domid, 0), dict(zip(("tx", "rx"), refs, strict=True)), ports)
        tx, rx, stats = regions
        self._pages.append((tx, rx, stats))

    def _write(self, device: Device, refs: dict[str, int], ports: dict[str, int]) -> None:
        """The device's nodes."""
        front = {"backend": device.backend_path, **_FRONT}
        front |= {f"{name}-ring-ref": str(ref) for name, ref in refs.items()}
        front |= {f"event-channel-{name}": str(port) for name, port in ports.items()}
        back = {"frontend": device.frontend_path, **_BACK, "frontend-id": str(device.domid)}
        for transaction in self.root.store.transaction():
            with transaction as tx:
                for path, keys in ((device.frontend_path, front), (device.backend_path, back)):
                    for name, value in keys.items():
                        tx.write(f"{path}/{name}", value)

    def _move(self) -> None:
        """What a machine in use does, until the end."""
        began, turn = time.time_ns(), 0
        (page,) = self.root.memory.alloc(1)
        while not self._over.wait(_TICK):
            turn += 1
            for number, (tx, rx, stats) in enumerate(self._pages):
                prod = u32(turn * (number + 1))
                HEADER.pack_into(tx, 0, prod, prod + 1, u32(prod - number % _SLOTS), prod + 1)
                HEADER.pack_into(rx, 0, u32(prod + _SLOTS), prod + 1, prod, prod + 1)
                said = Stats(
                    role=0, device=1, since=began, requests=prod, responses=prod, bytes_in=prod * 1500,
                    bytes_out=prod * 60, units_in=prod, units_out=prod, events_sent=prod, events_received=prod,
                ).emit()  # fmt: skip
                stats[: len(said)] = said
            for _ in range(_CALLS):
                self.root.memory.end_access(self.root.memory.grant([page], 1))
            self.root.store.write("/local/domain/1/data/turn", str(turn))
        self.root.memory.free([page])

    def _end(self) -> None:
        assert self._mover.is_alive(), "nothing has moved"
        self._over.set()
        self._mover.join()

    @property
    def daemon(self) -> int:
        """The hypervisor's process."""
        return int((self.point / "hypervisor" / "pid").read_text())

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.mount.rest()
        self.held.close()
