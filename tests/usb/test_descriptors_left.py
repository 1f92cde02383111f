"""Devices of a process that has too few descriptors left."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from tests.usb.gadgets import DEVICES
from tests.usb.port import Port, descriptors


@pytest.mark.parametrize("name", ["stick", "keyboard", "serial"])
def test_a_device_for_which_there_are_too_few_keeps_none(port: Port, tmp_path: Path, name: str) -> None:
    make, argument = DEVICES[name]
    text = argument(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = descriptors()
    limit = os.dup(0)  # the first that is free
    os.close(limit)
    failed: list[int | None] = []
    while len(failed) < 1000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit + len(failed), hard))
        try:
            make(text, port).close()
            break
        except OSError as error:
            failed.append(error.errno)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert descriptors() == before
    assert set(failed) == {errno.EMFILE}
    assert descriptors() == before
