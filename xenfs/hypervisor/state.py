"""What the machine consists of. Records only: the rules are in the modules that share the names of their nouns."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from xenfs.abi.event_channel import PortState
from xenfs.abi.grant_table import NR_RESERVED_ENTRIES, Gtf
from xenfs.abi.xen import DOMID_FIRST_RESERVED
from xenfs.hypervisor.errors import NoSuchDomain
from xenfs.hypervisor.extents import Extents
from xenfs.hypervisor.numbers import Numbers
from xenfs.hypervisor.world import ByteContents, Contents, EventCounts, Lines

PIN_MAX = 255
"""Mappings of one kind (read-only, writable) that one grant can have at once: Xen's 8-bit pin counters."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one domain may have. Defaults are Xen's, but for handles, which Xen does not have."""

    grants: int = 64 * 512 - NR_RESERVED_ENTRIES
    maps: int = 1024 * 256
    ports: int = 1023
    handles: int = 1024


@dataclass(frozen=True, slots=True)
class Config:
    """The machine's size and habits.

    `frames` is its memory (4 KiB each); `slice` the resources released in one go before other callers get their turn;
    `trace` the records that are kept. With `lingering_maps` what a dead domain mapped stays mapped until the world
    releases it: a process may still have the page although its domain is gone.
    """

    frames: int = 1 << 20
    dom0_frames: int = 4096
    limits: Limits = field(default_factory=Limits)
    dom0_limits: Limits = field(default_factory=lambda: Limits(ports=(1 << 17) - 1, handles=65536))
    slice: int = 1024
    trace: int = 4096
    lingering_maps: bool = False


@dataclass(slots=True, eq=False)
class Handle:
    """An open file that owns what was allocated through it.

    From the moment it is `closed` what it owns counts as gone, though releasing that may take a while.

    `owns` is in order of allocation. `balance` is how many frames more the domain owns because of this handle
    (ballooned in, received) than it gave away through it; closing the handle settles it.
    """

    number: int
    domain: Domain
    owns: dict[Resource, None] = field(default_factory=dict)
    balance: int = 0
    closed: bool = False

    def __repr__(self) -> str:
        return f"handle {self.number} of domain {self.domain.domid}"


@dataclass(slots=True, eq=False)
class Frame:
    """A frame that is not idle: held by a handle, granted, mapped by somebody, or named as a ring."""

    number: int
    owner: Domain
    holder: Handle | None = None
    grants: int = 0
    maps: int = 0
    ring: Ring | None = None

    def __repr__(self) -> str:
        return f"frame {self.number} of domain {self.owner.domid}"

    @property
    def use(self) -> str:
        """What keeps the frame where it is, in words; nothing when it may change hands."""
        if self.maps:
            return f"mapped {self.maps} times"
        if self.grants:
            return f"granted {self.grants} times"
        return f"ring {self.ring.name}" if self.ring else ""


@dataclass(slots=True, eq=False)
class Ring:
    """A name that a driver gave to a frame."""

    name: str
    frame: Frame
    handle: Handle

    def __repr__(self) -> str:
        return f"ring {self.name} of domain {self.frame.owner.domid}"


@dataclass(slots=True, eq=False)
class Grant:
    """An entry in use. `frame` is the frame granted, or the one received; an open offer has none.

    `ending` marks one that its owner has given up while a peer maps it: the entry allows nothing more and goes with
    the last mapping.
    """

    domain: Domain
    ref: int
    grantee: int
    handle: Handle
    type: Gtf
    readonly: bool = False
    frame: Frame | None = None
    readers: int = 0
    writers: int = 0
    ending: bool = False

    def __repr__(self) -> str:
        return f"grant {self.ref} of domain {self.domain.domid}"

    @property
    def maps(self) -> int:
        """Live mappings."""
        return self.readers + self.writers


@dataclass(slots=True, eq=False)
class Mapping:
    """One mapping of a peer's grant, counted until it is unmapped, whoever of the two dies first.

    `number` is the domain's, `serial` the machine's own, which never comes again.
    """

    number: int
    serial: int
    domain: Domain
    handle: Handle
    grant: Grant
    frame: Frame
    readonly: bool

    def __repr__(self) -> str:
        return f"mapping {self.number} of domain {self.domain.domid}"


@dataclass(slots=True, eq=False)
class Port:
    """An allocated event channel port; `line` is this allocation's own and never comes again."""

    number: int
    line: int
    domain: Domain
    handle: Handle
    state: PortState
    remote_domid: int = 0
    peer: Port | None = None
    virq: int = 0
    vcpu: int = 0

    def __repr__(self) -> str:
        return f"port {self.number} of domain {self.domain.domid}"


Resource = Frame | Ring | Grant | Mapping | Port


@dataclass(slots=True, eq=False)
class Domain:
    """A domain: what it owns and what of that is in use.

    `idle` is what it owns of frames nobody has a hold on. A dead domain is `released` when everything but the frames
    that peers map is, and what its own processes still map.
    """

    domid: int
    name: str
    uuid: str
    limits: Limits
    max_frames: int
    frames: Extents = field(default_factory=Extents)
    idle: Extents = field(default_factory=Extents)
    state: str = "running"
    released: bool = False
    vcpus: int = 1
    grants: dict[int, Grant] = field(default_factory=dict)
    maps: dict[int, Mapping] = field(default_factory=dict)
    ports: dict[int, Port] = field(default_factory=dict)
    virqs: dict[tuple[int, int], Port] = field(default_factory=dict)
    rings: dict[str, Ring] = field(default_factory=dict)
    handles: dict[int, Handle] = field(default_factory=dict)
    granted: int = 0
    in_flight: int = 0
    refs: Numbers = field(init=False)
    map_numbers: Numbers = field(init=False)
    port_numbers: Numbers = field(init=False)
    root: Handle = field(init=False)

    def __post_init__(self) -> None:
        """Make the tables; `root` is the handle of what the domain holds without an open file."""
        self.refs = Numbers(NR_RESERVED_ENTRIES, self.limits.grants)
        self.map_numbers = Numbers(0, self.limits.maps)
        self.port_numbers = Numbers(1, self.limits.ports)
        self.root = Handle(0, self)

    def __repr__(self) -> str:
        return f"domain {self.domid}"


@dataclass(slots=True, eq=False)
class State:
    """The whole machine.

    `busy` has a record for each frame in use, `mappings` every mapping by its serial, `closing` the handles still to
    be released, `domids` the numbers that are free.
    """

    config: Config = field(default_factory=Config)
    contents: Contents = field(default_factory=ByteContents)
    lines: Lines = field(default_factory=EventCounts)
    free: Extents = field(init=False)
    busy: dict[int, Frame] = field(default_factory=dict)
    mappings: dict[int, Mapping] = field(default_factory=dict)
    domains: dict[int, Domain] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    domids: Extents = field(default_factory=lambda: Extents(0, DOMID_FIRST_RESERVED))
    dying: list[Domain] = field(default_factory=list)
    handles: dict[int, Handle] = field(default_factory=dict)
    closing: deque[Handle] = field(default_factory=deque)
    last_handle: int = 0
    last_line: int = 0
    last_mapping: int = 0

    def __post_init__(self) -> None:
        """All memory is free at first."""
        self.free = Extents(0, self.config.frames)

    def domain(self, domid: int) -> Domain:
        """The live domain of that number. Raises NoSuchDomain."""
        domain = self.domains.get(domid)
        if domain is None:
            raise NoSuchDomain(f"domain {domid}", "there is no such domain")
        return domain


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call: a domain through one of its handles. `world` marks what the filesystem does on its behalf."""

    domain: Domain
    handle: Handle
    world: bool = False
