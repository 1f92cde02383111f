"""The states that the two ends of a device write, in the order in which they are seen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.toolstack.stage import SECONDS, Stage
from xenfs.domain import Refused
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus import Device


@contextmanager
def states(stage: Stage, device: Device) -> Iterator[list[str]]:
    """The states that the two ends write meanwhile, as `FE 1`, each as often as it is seen to change."""
    seen: list[str] = []
    ready, done = threading.Event(), threading.Event()

    def follow() -> None:
        with MountedDomain(0, stage.point) as root:
            places = {device.frontend_path: "FE", device.backend_path: "BE"}
            last: dict[str, str] = {}
            watch = root.store.watch("/local/domain", "states")
            ready.set()
            while not done.is_set():
                watch.wait(0.05)
                for place, name in places.items():
                    try:
                        said = root.store.read(f"{place}/state").decode()
                    except Refused:
                        said = ""
                    if said != last.setdefault(place, said):
                        last[place] = said
                        if said:
                            seen.append(f"{name} {said}")

    thread = threading.Thread(target=follow)
    thread.start()
    ready.wait(SECONDS)
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def in_order(seen: list[str], golden: list[str]) -> bool:
    """Whether all that was seen is in the golden order; a look may miss what is soon over."""
    rest = iter(golden)
    return all(word in rest for word in seen)
