"""The mounts of tests/mounted, for what is hostile to the filesystem itself."""

from tests.mounted.conftest import folder, mnt, own_mnt, shared_mounts

__all__ = ["folder", "mnt", "own_mnt", "shared_mounts"]
