"""Rows of text: a table on a terminal, aligned columns for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of columns with two spaces between; columns of numbers are aligned right, the last is not padded."""
    body = [[cell.replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(head, *body, strict=True)]
    right = numeric(len(head), body)

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, right, strict=True)
        return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in cells).rstrip()

    return [line(head), *map(line, body)]


def numeric(width: int, rows: Sequence[Sequence[str]]) -> list[bool]:
    """Which columns hold only numbers."""
    return [bool(rows) and all(row[i].isdigit() or row[i] == "-" for row in rows) for i in range(width)]


def show(head: Sequence[str], rows: Iterable[Sequence[str]], styles: dict[str, str] | None = None) -> None:
    """Print the rows; on a terminal, `styles` gives some words their colour."""
    body = [list(row) for row in rows]
    if not sys.stdout.isatty():
        for line in aligned(head, body):
            typer.echo(line)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, right in zip(head, numeric(len(head), body), strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in body:
        table.add_row(*(Text(cell, style=(styles or {}).get(cell, "")) for cell in row))
    Console().print(table)
