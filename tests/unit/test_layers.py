"""Imports go one way (style.md 1): read from the sources by ast, held against one table of rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Room:
    """What the modules of a room may import of ours (with all below it, `never` excepted), and whether it is pure."""

    may: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    pure: bool = False


INPROCESS = "xenfs.domain.inprocess"
MODELS = ("xenfs.hypervisor", "xenfs.xenstore")
LOW = ("xenfs.abi", "xenfs.atomics", "xenfs.ring", "xenfs.domain")
FUSE = ("xenfs.libfuse", "xenfs.fusemount")
DRIVER = Room((*LOW, "xenfs.xenbus"), never=(INPROCESS,))
FRONT = Room(("xenfs",))

ROOMS = {
    "xenfs": Room(),
    "xenfs.abi": Room(("xenfs.abi",), pure=True),
    "xenfs.hypervisor": Room(("xenfs.hypervisor", "xenfs.abi"), pure=True),
    "xenfs.xenstore": Room(("xenfs.xenstore", "xenfs.abi"), pure=True),
    "xenfs.xenstore.server": Room(("xenfs.xenstore", "xenfs.abi", "xenfs.sockets")),
    "xenfs.sockets": Room(),
    "xenfs.locks": Room(),
    "xenfs.libfuse": Room(),
    "xenfs.fusemount": Room(("xenfs.libfuse",)),
    "xenfs.fs": Room(("xenfs.fs", "xenfs.abi", *FUSE, *MODELS)),
    "xenfs.daemon": Room(("xenfs.daemon", "xenfs.fs", "xenfs.abi", *FUSE, *MODELS)),
    "xenfs.atomics": Room(LOW, never=(INPROCESS,)),
    "xenfs.ring": Room(LOW, never=(INPROCESS,)),
    "xenfs.domain": Room(LOW, never=(INPROCESS,)),
    INPROCESS: Room((*LOW, *MODELS)),
    "xenfs.xenbus": DRIVER,
    "xenfs.testing": Room((*LOW, *MODELS, "xenfs.testing")),
    "xenfs.__main__": FRONT,
    "xenfs.cli": FRONT,
    "xenfs.commands": FRONT,
    "xenfs.demo": FRONT,
    "xenfs.pytest_plugin": FRONT,
    "xenfs.reference": FRONT,
    "drivers": Room((*DRIVER.may, *FUSE, "xenfs.sockets", "xenfs.locks", "drivers"), never=(INPROCESS,)),
    "tools": Room(("xenfs", "drivers", "tools")),
}
"""By name of the room; the longest that fits a module counts, `xenfs` only for its own __init__."""

PURE = frozenset({
    "__future__", "abc", "bisect", "collections", "copy", "dataclasses", "difflib", "enum", "errno", "functools",
    "heapq", "immutables", "inspect", "itertools", "json", "math", "operator", "re", "shlex", "string", "struct",
    "types", "typing", "weakref",
})  # fmt: skip
"""What pure rooms may import of others: no I/O, no threads, no clock, no randomness. Nor may they call these."""
IMPURE_CALLS = ("open", "print", "input", "exec", "eval")


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


@dataclass(frozen=True)
class Tree:
    """The Python sources below a root, by module name; `drivers/xennet` is `drivers.xennet`, imported as `xennet`."""

    root: Path
    modules: dict[str, Path]

    @classmethod
    def read(cls, root: Path) -> Tree:
        found = {}
        for top in ("xenfs", "drivers", "tools"):
            for path in sorted((root / top).rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        return cls(root, found)

    def ours(self, name: str) -> str | None:
        """Our name of what is imported under `name`, None when it is not ours."""
        top = name.partition(".")[0]
        if top in ("xenfs", "drivers", "tools"):
            return name
        for room in ("drivers", "tools"):
            if any(within(module, f"{room}.{top}") for module in self.modules):
                return f"{room}.{name}"
        return None

    def known(self, name: str) -> bool:
        ours = self.ours(name)
        return ours is not None and any(within(module, ours) for module in self.modules)

    def imports(self, module: str) -> Iterator[tuple[int, str]]:
        """Line and absolute name of all that a module imports, wherever in it, and of its impure calls as `name()`."""
        path = self.modules[module]
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    yield node.lineno, inner if self.known(inner) else base
            elif isinstance(node, ast.Call):
                yield from _called(node)


def _called(node: ast.Call) -> Iterator[tuple[int, str]]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in ("__import__", "import_module"):
        first = node.args[0] if node.args else None
        plain = isinstance(first, ast.Constant) and isinstance(first.value, str)
        yield node.lineno, str(first.value) if plain and isinstance(first, ast.Constant) else "importlib"
    elif isinstance(node.func, ast.Name) and name in IMPURE_CALLS:
        yield node.lineno, f"{name}()"


def room_of(module: str) -> str | None:
    return max((r for r in ROOMS if within(module, r) and (r != "xenfs" or module == r)), key=len, default=None)


def wrong(tree: Tree, room: str, target: str) -> str:
    """What is wrong with an import of `target` in a room; nothing when it is right."""
    rule, ours = ROOMS[room], tree.ours(target)
    if ours is None:
        impure = rule.pure and target.partition(".")[0] not in PURE
        return f"{target} is not in PURE: {room} does no I/O and has no threads and clocks" if impure else ""
    if any(within(ours, n) for n in rule.never) or not any(within(ours, m) for m in rule.may):
        return f"{room} must not import {ours}, only: {' '.join(rule.may) or 'nothing of ours'}"
    return ""


def violations(root: Path) -> list[str]:
    tree, found = Tree.read(root), []
    for module, path in tree.modules.items():
        where, room = path.relative_to(root).as_posix(), room_of(module)
        if room is None:
            found.append(f"{where}: new room {module}: add it to ROOMS in tests/unit/test_layers.py")
            continue
        bad = ((line, wrong(tree, room, target)) for line, target in tree.imports(module))
        found += [f"{where}:{line}: {what}" for line, what in bad if what]
    return found


def test_imports_go_one_way() -> None:
    assert violations(ROOT) == []


def test_all_sources_are_read() -> None:
    modules = Tree.read(ROOT).modules
    assert {"xenfs", "xenfs.abi.wire", "xenfs.hypervisor.machine", "xenfs.ring"} <= set(modules)
    assert len(modules) == sum(1 for top in ("xenfs", "drivers", "tools") for _ in (ROOT / top).rglob("*.py"))


# The checker itself, on a small tree.

GOOD = {
    "xenfs/__init__.py": '"""Nothing."""',
    "xenfs/abi/__init__.py": "",
    "xenfs/abi/wire.py": "import struct\nfrom . import xen",
    "xenfs/abi/xen.py": "from enum import IntEnum",
    "xenfs/hypervisor/__init__.py": "from xenfs.hypervisor.state import State",
    "xenfs/hypervisor/state.py": "from xenfs.abi import wire\nfrom ..abi.wire import Wire\nfrom . import copy",
    "xenfs/hypervisor/copy.py": "import json\nimport collections.abc",
    "xenfs/xenstore/server.py": "import socket\nimport xenfs.xenstore.tree",
    "xenfs/xenstore/tree.py": "import immutables",
    "xenfs/fs/inode.py": "import os\nfrom xenfs.hypervisor import State\nfrom xenfs import abi, xenstore",
    "xenfs/daemon.py": "import xenfs.fs.inode, asyncio",
    "xenfs/ring.py": "import mmap\nfrom xenfs.abi.wire import Wire",
    "xenfs/domain/__init__.py": "from xenfs.ring import FrontRing",
    "xenfs/domain/inprocess/xen.py": "from xenfs import hypervisor\nfrom xenfs.domain import Domain",
    "xenfs/xenbus/front.py": "from xenfs.domain import Domain",
    "xenfs/testing/__init__.py": "import threading\nfrom xenfs.domain.inprocess import xen",
    "xenfs/cli.py": "import typer\nfrom importlib.metadata import entry_points\nfrom xenfs import daemon",
    "drivers/xennet/front.py": "from xenfs.domain import Domain\nfrom xenfs import xenbus\nimport xennet.key",
    "drivers/xennet/key.py": "import os",
    "tools/xl/__init__.py": "import xennet.front\nfrom xenfs.daemon import main",
}

BAD = [
    ("xenfs/__init__.py", "from xenfs import abi", "xenfs must not import xenfs.abi"),
    ("xenfs/abi/new.py", "import xenfs.hypervisor", "xenfs.abi must not import xenfs.hypervisor"),
    ("xenfs/abi/new.py", "from ..hypervisor import state", "must not import xenfs.hypervisor.state"),
    ("xenfs/abi/new.py", "from .. import hypervisor as h", "must not import xenfs.hypervisor"),
    ("xenfs/abi/new.py", "import xenfs", "must not import xenfs,"),
    ("xenfs/hypervisor/new.py", "def f():\n  from xenfs.xenstore import tree", "new.py:2: xenfs.hypervisor must not"),
    ("xenfs/hypervisor/new.py", "class A:\n  def f(self):\n    import os", "new.py:3: os is not in PURE"),
    ("xenfs/hypervisor/new.py", "if 1:\n  import os.path as p", "os.path is not in PURE"),
    ("xenfs/hypervisor/new.py", "if TYPE_CHECKING:\n  import xenfs.fs.inode", "must not import xenfs.fs.inode"),
    ("xenfs/hypervisor/new.py", "try:\n  import time\nexcept ImportError: pass", "time is not in PURE"),
    ("xenfs/hypervisor/new.py", "__import__('socket')", "socket is not in PURE"),
    ("xenfs/hypervisor/new.py", "__import__('so' + 'cket')", "importlib is not in PURE"),
    ("xenfs/hypervisor/new.py", "open('x')", "open() is not in PURE"),
    ("xenfs/xenstore/tree2.py", "import threading", "threading is not in PURE"),
    ("xenfs/xenstore/server.py", "import xenfs.hypervisor.state", "must not import xenfs.hypervisor.state"),
    ("xenfs/fs/new.py", "import xenfs.daemon", "xenfs.fs must not import xenfs.daemon"),
    ("xenfs/fs/new.py", "import xenfs.domain", "xenfs.fs must not import xenfs.domain"),
    ("xenfs/ring.py", "import xenfs.hypervisor", "xenfs.ring must not import xenfs.hypervisor"),
    ("xenfs/domain/new.py", "from xenfs import hypervisor", "xenfs.domain must not import xenfs.hypervisor"),
    ("xenfs/domain/new.py", "from xenfs.domain import inprocess", "must not import xenfs.domain.inprocess"),
    ("xenfs/domain/inprocess/new.py", "import xenfs.fs.inode", "xenfs.domain.inprocess must not import xenfs.fs"),
    ("xenfs/xenbus/new.py", "import xenfs.xenstore.tree", "xenfs.xenbus must not import xenfs.xenstore.tree"),
    ("xenfs/testing/new.py", "import xenfs.fs.inode", "xenfs.testing must not import xenfs.fs.inode"),
    ("xenfs/cli.py", "import xl", "xenfs.cli must not import tools.xl"),
    ("xenfs/cli.py", "importlib.import_module('xennet.front')", "must not import drivers.xennet.front"),
    ("drivers/xennet/new.py", "import xenfs.hypervisor.state", "drivers must not import xenfs.hypervisor.state"),
    ("drivers/xennet/new.py", "import xenfs.daemon", "drivers must not import xenfs.daemon"),
    ("drivers/xennet/new.py", "from xenfs.domain.inprocess import xen", "must not import xenfs.domain.inprocess"),
    ("drivers/xennet/new.py", "import xl", "drivers must not import tools.xl"),
    ("xenfs/novel.py", "", "xenfs/novel.py: new room xenfs.novel: add it to ROOMS"),
    ("xenfs/novel/__init__.py", "", "new room xenfs.novel: add it to ROOMS"),
]  # fmt: skip


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return root


def test_a_tree_that_keeps_the_rules_passes(tmp_path: Path) -> None:
    assert violations(plant(tmp_path, GOOD)) == []


def test_rooms_that_are_not_there_yet_are_no_violation(tmp_path: Path) -> None:
    assert violations(plant(tmp_path, {"xenfs/__init__.py": ""})) == []


@pytest.mark.parametrize(("path", "source", "said"), BAD, ids=[f"{b[0]}: {b[1][-40:]}" for b in BAD])
def test_a_planted_violation_is_found(tmp_path: Path, path: str, source: str, said: str) -> None:
    found = violations(plant(tmp_path, {**GOOD, path: source}))
    assert len(found) == 1
    assert said in found[0]
    assert found[0].startswith(path)
