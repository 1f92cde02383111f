"""One bay for tests that leave it as it was; those that kill have one of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.usb.bay import Bay


@pytest.fixture(scope="module")
def bay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bay]:
    made = Bay(tmp_path_factory.mktemp("bay"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def domid(bay: Bay) -> int:
    """A guest with a loop-back in port 1."""
    made = bay.usb_guest("loopback:")
    bay.until_there(made, 1)
    return made
