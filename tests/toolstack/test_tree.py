"""The tree that the toolstack writes, against what libxl wrote on real Xen (tests/clients/golden/tree-*.txt)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from xl import kinds, spec, tree
from xl.config import GuestConfig

from xenfs.commands.failure import Unable
from xenfs.domain import Refused, Store, Transaction
from xenfs.domain.inprocess import InProcessXen

GOLDEN = Path(__file__).parents[1] / "clients" / "golden"
UUID = "8ef717a6-d7c1-420c-936d-376642fe0988"
Tree = dict[str, tuple[str, str]]

EXCEPTIONS = {
    r"/local/domain/0/(control(/.*)?|domid|name|data)": "written by the boot of a real domain 0",
    r"/local/pool(/.*)?": "cpu pools: there is nothing to pool",
    r"/local/domain/1/store/(port|ring-ref)": "a guest reaches the store by dev/xenbus, not by a ring",
    r"/local/domain/1/console/(port|ring-ref|tty)": "the console is a file of output",
    r"/vm/[^/]*/image/(kernel|ramdisk|cmdline)": "a guest has no kernel here",
    r"/vm/[^/]*/start_time": "a time",
}
"""Nodes of the golden tree that are not ours, or not with that value, each with its reason."""
BACKENDS_OWN = r"feature-.*|multi-queue-max-queues|max-ring-page-order|physical-device.*|hotplug-status|state|params"
"""What the backend and its hotplug wrote after the toolstack."""


def golden(name: str) -> Tree:
    found = {}
    for line in (GOLDEN / name).read_text().splitlines():
        path, value, perms = re.fullmatch(r'(\S+) = "(.*)"   \((.*)\)', line).groups()  # type: ignore[union-attr]
        found[path] = value, perms
    return found


def whole(store: Store, path: str = "") -> Iterator[tuple[str, tuple[str, str]]]:
    if path:
        yield path, (store.read(path).decode(), ",".join(store.perms(path)))
    for name in store.list(path or "/"):
        yield from whole(store, f"{path}/{name}")


def without(found: Tree) -> Tree:
    return {path: node for path, node in found.items() if not any(re.fullmatch(p, path) for p in EXCEPTIONS)}


def of_toolstack(found: Tree) -> Tree:
    """Without what a backend has written below its directory."""
    own = re.compile(rf"/local/domain/0/backend/v(bd|if)/1/\d+/({BACKENDS_OWN})")
    copies = re.compile(r"/libxl/1/device/vbd/51712/params")
    return {
        path: node for path, node in without(found).items() if not own.fullmatch(path) and not copies.fullmatch(path)
    }


@pytest.fixture
def store() -> Iterator[Store]:
    with InProcessXen() as xen:
        assert xen.create_domain("oracle1") == 1
        config = GuestConfig(name="oracle1", uuid=UUID, memory=320)
        root = xen.domain(0)
        tree.write(root.store, 1, config)
        for kind, text in (("vbd", "/dev/null,raw,xvda,w"), ("vif", "mac=00:16:3e:00:00:01")):
            spec.add(root.store, kinds.parse(kind, text, 1, 0, int))
        yield root.store
        root.close()


def test_keys_values_and_permissions_are_libxls(store: Store) -> None:
    ours, theirs = of_toolstack(dict(whole(store))), of_toolstack(golden("tree-1-created-paused.txt"))
    extra = {"/local/domain/0/device", "/local/domain/0/error"}  # every domain has these here
    assert {path: node for path, node in ours.items() if path not in extra} == theirs
    assert len(theirs) > 100


def test_every_exception_is_one(store: Store) -> None:
    theirs, ours = golden("tree-1-created-paused.txt"), dict(whole(store))
    for pattern in EXCEPTIONS:
        different = [path for path in theirs if re.fullmatch(pattern, path) and ours.get(path) != theirs[path]]
        assert different, pattern


def test_they_are_written_in_libxls_order(store: Store) -> None:
    written = re.findall(
        r"^xl +WRITE (\S+) =", (GOLDEN / "transitions.txt").read_text().split("== snap")[1], re.MULTILINE
    )
    for directory in (
        "/local/domain/1/device/vif/0",
        "/local/domain/0/backend/vif/1/0",
        "/local/domain/0/backend/vbd/1/51712",
    ):
        names = [path.rpartition("/")[2] for path in written if path.rpartition("/")[0] == directory]
        assert list(store.list(directory)) == names, directory


def test_nothing_is_left_of_a_destroyed_domain(store: Store) -> None:
    tree.begin_to_end(store, 1)
    for device in spec.attached(store, 1):
        spec.remove(store, device)
    tree.remove(store, 1, f"/vm/{UUID}")
    with suppress(Refused):
        store.rm("/local/domain/1")  # by the hypervisor
    tree.end(store, 1)
    ours = without(dict(whole(store)))
    left = {path for path in ours if path not in ("/local/domain/0/device", "/local/domain/0/error")}
    assert left <= set(golden("tree-C-destroyed.txt"))


def test_a_device_is_written_once_and_not_for_a_domain_that_ends(store: Store) -> None:
    wanted = kinds.parse("vif", "", 1, 0, int)
    with pytest.raises(spec.Taken, match="vif 1/0 is attached already"):
        spec.add(store, wanted)
    tree.begin_to_end(store, 1)
    with pytest.raises(Unable, match="domain 1 is being destroyed"):
        spec.add(store, kinds.parse("vif", "", 1, 1, int))
    tree.end(store, 1)
    tree.begin_to_end(store, 99)
    assert not store.exists(spec.ending(99)), "there is no such domain"


def test_of_two_who_write_a_device_at_once_one_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = kinds.parse("vif", "", 1, 1, int)
    write = spec.DeviceSpec.write

    def slowly(self: spec.DeviceSpec, tx: Transaction) -> None:
        monkeypatch.setattr(spec.DeviceSpec, "write", write)
        spec.add(store, wanted)  # the other, in the meantime
        write(self, tx)

    monkeypatch.setattr(spec.DeviceSpec, "write", slowly)
    with pytest.raises(spec.Taken):
        spec.add(store, wanted)


def test_what_another_domain_of_the_number_has_by_now_stays(store: Store) -> None:
    tree.begin_to_end(store, 1)
    tree.write(store, 1, GuestConfig(name="another", uuid=UUID, memory=4))
    tree.end(store, 1)
    assert store.read("/libxl/1/type") == b"pv"
