"""Checks a CSV file before it is read: every row must be as long as the header."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

from downpour.config import ConfigError


def survey(path: Path, separator: str = ",") -> tuple[list[str], int]:
    """Names of the columns and number of rows.

    Raises:
        ConfigError: no such file, not text, no rows, a duplicate name, or a row that is empty or not as long as the
            header; names the line.
    """
    if not path.is_file():
        raise ConfigError("data.source.path", path, "there is no such file")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file, delimiter=separator, skipinitialspace=True), [])
        rows, empty = 0, 0
        for line, length, first in _lengths(path, separator):
            if length == 0:
                empty = empty or line
                continue
            if empty:
                raise ConfigError(message=f"{path}, line {empty}: an empty row")
            if length != len(header):
                absent = f"{header[length]} and what follows is missing" if length < len(header) else "too many"
                what = f"{length} values where the header has {len(header)} columns ({absent})"
                raise ConfigError(message=f"{path}, line {line}, which begins with {first!r}: {what}")
            rows += 1
    except UnicodeDecodeError as error:
        raise ConfigError("data.source.path", path, f"is not text in UTF-8 ({error})") from None
    except csv.Error as error:
        raise ConfigError("data.source.path", path, f"is not a table ({error})") from None
    if rows < 2:
        raise ConfigError("data.source.path", path, "has no rows below its header")
    if twice := [name for name in header if header.count(name) > 1]:
        raise ConfigError("data.source.path", path, f"has two columns named {twice[0]!r}")
    return [name.strip() for name in header], rows - 1


def line_of(path: Path, separator: str, row: int) -> int:
    """The line at which row number `row` (0 is below the header) begins; computed only for messages."""
    filled = (line for line, length, _ in _lengths(path, separator) if length)
    return next(itertools.islice(filled, row + 1, None))


def _lengths(path: Path, separator: str) -> Iterator[tuple[int, int, str]]:
    """(its first line, count of values, first value) of every row; by counting separators while nothing is quoted."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if '"' in text:
                break
            bare = text.rstrip("\r\n")
            yield line, bare.count(separator) + 1 if bare.strip(" ") else 0, bare.partition(separator)[0]
        else:
            return
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=separator, skipinitialspace=True)
        begin = 1
        for row in reader:
            if begin >= line:  # the lines before are counted
                yield begin, len(row), row[0] if row else ""
            begin = reader.line_num + 1  # a quoted value may span several lines
