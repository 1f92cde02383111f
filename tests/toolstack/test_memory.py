"""xenfs mem-set and mem-max: what they refuse, in words for people."""

from __future__ import annotations

import pytest

from tests.toolstack.stage import Stage

pytestmark = pytest.mark.timeout(110)


def test_what_a_domain_may_not_have(stage: Stage) -> None:
    stage.guest("beta", memory=4, maxmem=8)
    said = stage.fails("mem-set", "beta", "9")
    assert said == "xenfs mem-set: domain 1 may have 8 MiB at most, not 9 MiB; xenfs mem-max beta 9 lets it grow so far"
    stage.fine("mem-max", "beta", "9")
    stage.fine("mem-set", "beta", "9")
    for size in ("0", "8"):
        assert stage.fails("mem-max", "beta", size) == (
            f"xenfs mem-max: domain 1 has 9 MiB, and {size} MiB at most would be less; "
            "xenfs mem-set beta takes from it first"
        )
    stage.fine("mem-set", "beta", "2")
    stage.fine("mem-max", "beta", "2")


def test_what_the_machine_has_not(stage: Stage) -> None:
    stage.guest("beta", memory=4)
    frames = 1 << 16
    assert stage.fails("mem-max", "beta", "1g") == (
        f"xenfs mem-max: domain 1: it cannot grow to {1 << 18} frames: the machine has {frames}"
    )
    stage.fine("mem-max", "beta", "256")
    assert stage.fails("mem-set", "beta", "256") == (
        f"xenfs mem-set: machine: domain 1 wants {frames - 1024} frames, "
        f"and only {frames - 4096 - 1024} of the machine's {frames} are free"
    )
