"""One town for all tests of traffic; those that change it have one of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.need import need_tool
from tests.net.namespaces import need_network
from tests.net.town import Place, Town


@dataclass(frozen=True)
class Neighbours:
    """Two guests of a town."""

    town: Town
    first: Place
    second: Place


@pytest.fixture(scope="package")
def neighbours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbours]:
    need_network()
    for tool, package in (("ping", "iputils-ping"), ("iperf3", "iperf3")):
        need_tool(tool, package)
    town = Town(tmp_path_factory.mktemp("town"))
    try:
        yield Neighbours(town, town.guest(), town.guest())
    finally:
        town.close()


@pytest.fixture
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    need_network()
    made = Town(tmp_path_factory.mktemp("town"))
    try:
        yield made
    finally:
        made.close()
