"""Tests on a real mount: they need /dev/fuse and libfuse2, and some need root."""
