"""The loop of a driver: whose turn it is."""

from __future__ import annotations

import os
from contextlib import closing

from xenfs.xenbus import Loop


def test_what_has_the_number_of_a_descriptor_that_was_ready_is_not_called_for_it() -> None:
    said: list[str] = []
    with closing(Loop()) as loop:
        fds = [os.eventfd(1), os.eventfd(1)]

        def exchange() -> None:
            for fd in fds:
                loop.unwatch(fd)
                os.close(fd)
            assert [os.eventfd(0), os.eventfd(0)] == fds
            for fd in fds:
                loop.watch(fd, lambda: said.append("nothing has come for it"))

        for fd in fds:
            loop.watch(fd, exchange)
        loop.turn(0)
        assert said == []
        os.eventfd_write(fds[1], 1)
        loop.turn(0)
        assert len(said) == 1
        for fd in fds:
            os.close(fd)
