"""The mounts of tests/mounted, for random lives on a mount."""

from tests.mounted.conftest import folder, mnt, own_mnt, shared_mounts

__all__ = ["folder", "mnt", "own_mnt", "shared_mounts"]
