"""One town for all tests of traffic; those that change it have one of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.need import need_tool
from tests.net.namespaces import need_network
from tests.net.town import Place, Town

BOTH_WAYS = pytest.mark.parametrize("town", ["copy", "flip"], indirect=True)
"""For a test that is to be run with packets copied and with pages flipped."""


@dataclass(frozen=True)
class Neighbours:
    """Two guests of a town."""

    town: Town
    first: Place
    second: Place


@pytest.fixture(scope="package", params=["copy", "flip"])
def neighbours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbours]:
    need_network()
    for tool, package in (("ping", "iputils-ping"), ("iperf3", "iperf3")):
        need_tool(tool, package)
    town = Town(tmp_path_factory.mktemp("town"), request.param)
    try:
        yield Neighbours(town, town.guest(), town.guest())
    finally:
        town.close()


@pytest.fixture
def town(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Where packets are copied into the guests' pages, unless a test says otherwise with BOTH_WAYS."""
    need_network()
    made = Town(tmp_path_factory.mktemp("town"), getattr(request, "param", "copy"))
    try:
        yield made
    finally:
        made.close()
