"""Formats numbers and tables for pages and terminals."""

import math
from collections.abc import Sequence


def spaced(number: float) -> str:
    """50000 -> "50 000"; NaN and infinity -> "-"."""
    return f"{number:,.0f}".replace(",", " ") if math.isfinite(number) else "-"


def aligned(rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """The lines of a Markdown table, with padded columns.

    Args:
        rows: the first is the heading.
        left: number of columns, from the left, that are left-aligned; the others are right-aligned.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rules = ["-" * (width + 2) if place < left else "-" * (width + 1) + ":" for place, width in enumerate(widths)]
    lines = []
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        lines.append(f"| {' | '.join(c.ljust(w) if place < left else c.rjust(w) for place, (c, w) in cells)} |")
    return [lines[0], f"|{'|'.join(rules)}|", *lines[1:]]
