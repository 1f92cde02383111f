"""The command, also as `python -m xenfs`. It starts in a directory of a mount that has died just as well."""

from __future__ import annotations

import os
from pathlib import Path


def main() -> None:
    """Run the `xenfs` command."""
    try:
        Path.cwd()
    except OSError:
        os.chdir("/")  # rich, which the command line is drawn with, asks where it is when imported
    from xenfs import cli

    cli.main()


if __name__ == "__main__":
    main()
