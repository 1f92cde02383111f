"""What the store answers instead of doing something."""

from __future__ import annotations

import errno


class StoreError(Exception):
    """A request that was refused and changed nothing: its errno, and what is wrong with what."""

    def __init__(self, code: int, where: str, problem: str) -> None:
        """Keep the parts; the message is made of them."""
        super().__init__(f"{where}: {problem}")
        self.errno, self.where, self.problem = code, where, problem

    @property
    def name(self) -> str:
        """The errno by name, such as `EINVAL`."""
        return errno.errorcode[self.errno]
