"""Any table in a CSV file: its types found, its holes reported, its faults named by line and column."""

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np

from downpour.config import ConfigError, PositiveInt, nearest
from downpour.data.samples import Samples, as_images
from downpour.data.sources.base import Source
from downpour.data.sources.survey import survey

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 20_000
MOST_CLASSES = 20  # whole numbers with more values than this are numbers, not classes
MOST_WORDS = 1_000  # kinds in a column of words; with more it is no category


class Table(Source):
    """A CSV file with a header. Columns of numbers are inputs as they are, columns of words become unit vectors.

    Read in blocks, straight into one float32 array: the peak stays well below twice its size.
    """

    def __init__(
        self,
        *,
        path: str,
        target: str | None = None,
        task: Literal["auto", "classification", "regression"] = "auto",
        missing: Literal["refuse", "drop", "mean"] = "refuse",
        shape: list[PositiveInt] | None = None,
    ):
        """
        Args:
            path: the file.
            target: name of the column to predict; null takes the last.
            task: auto takes words, or at most 20 whole numbers, for classes.
            missing: what to do with a row that lacks an input: refuse the file, drop the row, or fill in the mean of
                the training rows.
            shape: [channels, height, width], where each row is an image.
        """
        self.path, self.target, self.task, self.missing, self.shape = (
            Path(path).expanduser(),
            target,
            task,
            missing,
            shape,
        )

    def load(self) -> Samples:
        """
        Raises:
            ConfigError: no such file or column, a ragged or empty row, a hole, a target that is no number.
        """
        header, rows = survey(self.path)
        target = header[-1] if self.target is None else self.target
        if target not in header:
            raise ConfigError("data.source.target", target, f"{self.path} has no such column{nearest(target, header)}")
        inputs = [name for name in header if name != target]
        if not inputs:
            raise ConfigError("data.source.path", self.path, "has no column besides the target")
        words: dict[str, dict[str, int]] = {}
        while True:  # a column of numbers may turn out to hold a word: then once more from the start
            try:
                values, raw = self._fill(inputs, target, rows, words)
                break
            except _Word as found:
                words[found.column] = {}
        targets, classes = self._targets(raw, target)
        values, columns = _unit_vectors(values, inputs, words)
        holes = self._report(values, columns, inputs, words, classes)
        samples = Samples(values, targets, classes, str(self.path), columns, first_line=2, holes=self.missing == "mean")
        if holes is not None and self.missing == "drop":
            samples.inputs, samples.targets = values[~holes], targets[~holes]
        if self.shape is not None:
            samples.inputs = as_images(samples.inputs, self.shape, str(self.path))
            samples.columns = None
        return samples

    def _fill(
        self, inputs: list[str], target: str, rows: int, words: dict[str, dict[str, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs [rows, columns] (words as their numbers) and the target's raw values [rows]."""
        import pandas

        values = np.empty((rows, len(inputs)), np.float32)
        raw: list[np.ndarray] = []
        begin = 0
        kinds: Any = {name: "str" for name in words}
        blocks = pandas.read_csv(
            self.path,
            chunksize=ROWS_AT_ONCE,
            dtype=kinds,
            skipinitialspace=True,
            low_memory=False,
            encoding="utf-8-sig",
        )
        for block in blocks:
            block.columns = [str(name).strip() for name in block.columns]
            end = begin + len(block)
            for place, name in enumerate(inputs):
                column = block[name]
                if name in words:
                    values[begin:end, place] = self._numbered(column, words[name], name)
                elif pandas.api.types.is_numeric_dtype(column):
                    values[begin:end, place] = column.to_numpy(np.float32, na_value=np.nan)
                elif column.isna().all():
                    values[begin:end, place] = np.nan
                else:
                    raise _Word(name)
            raw.append(block[target].to_numpy())
            begin = end
        return values, np.concatenate(raw)

    def _numbered(self, column: Any, known: dict[str, int], name: str) -> np.ndarray:
        for word in column.dropna().unique():
            known.setdefault(str(word), len(known))
        if len(known) > MOST_WORDS:
            advice = f"column {name!r} holds more than {MOST_WORDS} different words: leave it out"
            raise ConfigError("data.source.path", self.path, advice)
        return column.map(lambda word: known.get(word, np.nan), na_action="ignore").to_numpy(
            np.float32, na_value=np.nan
        )

    def _targets(self, raw: np.ndarray, name: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
        import pandas

        holes = np.flatnonzero(pandas.isna(raw))
        if len(holes):
            raise ConfigError(message=f"{self.path}, line {holes[0] + 2}, column {name}: the target is missing")
        numbers = raw.dtype.kind in "iuf"
        whole = numbers and bool(np.all(raw == np.floor(raw)))
        is_class = self.task == "classification"
        if self.task == "auto":
            is_class = not numbers or (whole and len(np.unique(raw)) <= MOST_CLASSES)
        if is_class:
            labels = raw.astype(np.int64) if whole else raw.astype(str)
            found, target = np.unique(labels, return_inverse=True)
            return target.astype(np.int64), tuple(str(each) for each in found)
        if not numbers:
            line = next(i for i, value in enumerate(raw) if not _is_number(value))
            where = f"{self.path}, line {line + 2}, column {name}"
            raise ConfigError(message=f"{where}: {raw[line]!r} is not a number, as data.source.task=regression needs")
        return raw.astype(np.float32)[:, None], None

    def _report(
        self,
        values: np.ndarray,
        columns: list[str],
        inputs: list[str],
        words: dict[str, dict[str, int]],
        classes: tuple[str, ...] | None,
    ) -> np.ndarray | None:
        """Say what was found; which rows have holes, or None."""
        kinds = "".join(f"; {name}: {len(known)} words" for name, known in words.items())
        what = "numbers" if classes is None else f"{len(classes)} classes ({', '.join(classes[:10])})"
        numeric = len(inputs) - len(words)
        log.info("%s: %d rows, %d columns of numbers%s; target: %s", self.path, len(values), numeric, kinds, what)
        counts = np.array([np.isnan(values[:, place]).sum() for place in range(values.shape[1])])
        if not counts.any():
            return None
        listed = ", ".join(f"{columns[place]} {counts[place]}" for place in np.flatnonzero(counts)[:20])
        holes = np.isnan(values).any(1)
        if self.missing == "refuse":
            row = int(np.flatnonzero(holes)[0])
            column = columns[int(np.flatnonzero(np.isnan(values[row]))[0])]
            advice = "data.source.missing=drop leaves such rows out, mean fills them in"
            where = f"{self.path}, line {row + 2}, column {column}"
            raise ConfigError(message=f"{where}: a value is missing (missing in all: {listed}); {advice}")
        done = "dropped" if self.missing == "drop" else "filled with the mean of the training rows"
        log.info("%s: %d rows with missing values (%s), %s", self.path, holes.sum(), listed, done)
        return holes


class _Word(Exception):
    """A column of numbers holds a word."""

    def __init__(self, column: str):
        self.column = column
        super().__init__(column)


def _unit_vectors(
    values: np.ndarray, inputs: list[str], words: dict[str, dict[str, int]]
) -> tuple[np.ndarray, list[str]]:
    """Replace columns of word numbers by unit vectors, words in alphabetical order; a hole stays one."""
    if not words:
        return values, inputs
    blocks, names = [], []
    for place, name in enumerate(inputs):
        column = values[:, place : place + 1]
        if name not in words:
            blocks.append(column)
            names.append(name)
            continue
        for word in sorted(words[name]):
            unit = (column == words[name][word]).astype(np.float32)
            blocks.append(np.where(np.isnan(column), np.float32(np.nan), unit))
            names.append(f"{name}={word}")
    return np.concatenate(blocks, 1), names


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
