"""The rows of xen-interfaces.md 2 and D.3 to D.5: a connection, a transaction, an operation, and what it must get.

The same table runs against the model, the socket of a mount, and dev/xenbus (tests/mounted/test_xenstore_doors.py).
"""

from __future__ import annotations

import pytest

from tests.unit.store import Land
from tests.unit.xenstore_rows import CASES, Case, play


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_model(case: Case) -> None:
    land = Land()
    peers = {}

    def ask(who: str, kind: int, tx: int, payload: bytes) -> bytes:
        domid = int(who[0])
        if who not in peers:
            peers[who] = land.peer(domid)
        return peers[who].ask(kind, payload, tx)

    play(case, ask)
