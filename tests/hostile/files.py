"""What the tests of hostile clients of the filesystem have in common."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.inside import mapped
from tests.mounted.mount import Xen


def refused(code: int, call: Callable[..., object], *arguments: object) -> None:
    """That a call fails with this errno."""
    with pytest.raises(OSError) as error:  # noqa: PT011 - checked below
        call(*arguments)
    assert errno.errorcode[error.value.errno or 0] == errno.errorcode[code]


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def answers(mnt: Xen) -> None:
    """The machine does what it always does."""
    with mnt.ctl(0) as dom0:
        frame, ref = dom0.grant(0)
        with mapped(mnt.home(0) / "foreign" / "0" / str(ref)) as page:
            page[:2] = b"ok"
            assert (mnt.home(0) / "frames" / str(frame)).read_bytes()[:2] == b"ok"
        assert dom0.ask(f"end_access ref={ref}") == "ok"


def paths(mnt: Xen) -> list[Path]:
    """One name of every kind of file that opens without waiting, with domain 1 having one of each thing."""
    ctl = mnt.ctl(1)
    frame, ref = ctl.grant(2)
    ctl.do(f"name_ring frame={frame} name=vif-0-tx")
    port = ctl.do("bind_ipi")
    one, two = mnt.home(1), mnt.home(2)
    names = ["name", "state", "memory", "ctl", f"frames/{frame}", f"grants/{ref}/page", f"grants/{ref}/info"]
    names += ["rings/vif-0-tx", f"evtchn/{port}/info"]
    return [*(one / name for name in names), two / "foreign" / "1" / str(ref), mnt.root / "hypervisor" / "frames"]
