"""Tables in CSV files: types are inferred, missing values reported, errors located by line and column."""

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np

from downpour.config import ConfigError, PositiveInt, nearest
from downpour.data.samples import Samples, as_images, blocks
from downpour.data.sources.base import Source
from downpour.data.sources.survey import line_of, survey
from downpour.data.sources.words import HoldWords, Words, numbered, unit_vectors

log = logging.getLogger(__name__)

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
ROWS_AT_ONCE = 20_000
MOST_CLASSES = 20  # whole numbers with more values than this are numbers, not classes
MOST_WORDS = 1_000  # distinct words in a column; with more it is not categorical


class Table(Source):
    """A CSV file with a header. Columns of numbers are inputs as they are, columns of words are one-hot encoded.

    It is read in blocks into one float32 array; peak memory is below twice its size.
    """

    def __init__(
        self,
        *,
        path: str,
        target: str | None = None,
        columns: list[str] | None = None,
        ignore: list[str] | None = None,
        separator: Literal["comma", "semicolon", "tab", "pipe"] = "comma",
        task: Literal["auto", "classification", "regression"] = "auto",
        missing: Literal["refuse", "drop", "mean"] = "refuse",
        shape: list[PositiveInt] | None = None,
    ):
        """
        Args:
            path: the file.
            target: name of the column to predict; null takes the last.
            columns: names of the inputs; null takes all but the target.
            ignore: names of columns that are not inputs.
            separator: between two values.
            task: auto treats words, or at most 20 different whole numbers, as classes.
            missing: what to do with missing inputs: reject the file, drop the row, or fill with the mean of
                the training rows.
            shape: [channels, height, width], if each row is an image.
        """
        self.path, self.target, self.columns, self.ignore = Path(path).expanduser(), target, columns, ignore or []
        self.separator, self.task, self.missing, self.shape = SEPARATORS[separator], task, missing, shape

    def load(self) -> Samples:
        """
        Raises:
            ConfigError: no such file or column, a ragged or empty row, a missing value, a target that is not a number.
        """
        header, rows = survey(self.path, self.separator)
        inputs, target = self._choose(header)
        words: Words = {}
        while True:  # a column of numbers may turn out to hold a word: then start again
            try:
                values, raw = self._fill(header, inputs, target, rows, words)
                break
            except HoldWords as found:
                words |= {name: {} for name in found.columns}
        targets, classes = self._targets(raw, target)
        values, columns = unit_vectors(values, inputs, words)
        holes = self._report(values, columns, inputs, words, classes)
        kept = np.arange(rows)
        if holes.any() and self.missing == "drop":
            kept = np.flatnonzero(~holes)
            values, targets = _only(kept, values), targets[kept]
        if self.shape is not None:
            values = as_images(values, self.shape, str(self.path))
        samples = Samples(values, targets, classes, str(self.path), columns, holes=self.missing == "mean")
        samples.line_of = lambda row: self._line(int(kept[row]))
        return samples

    def _line(self, row: int) -> int:
        return line_of(self.path, self.separator, row)

    def _choose(self, header: list[str]) -> tuple[list[str], str]:
        """Names of the inputs, in the file's order, and of the target."""
        target = header[-1] if self.target is None else self.target
        asked = {"target": [target], "columns": self.columns or [], "ignore": self.ignore}
        for key, names in asked.items():
            for name in names:
                if name not in header:
                    raise ConfigError(
                        f"data.source.{key}", name, f"{self.path} has no such column{nearest(name, header)}"
                    )
        if target in self.ignore:
            raise ConfigError("data.source.ignore", target, "is the target: choose another with data.source.target")
        wanted = header if self.columns is None else self.columns
        inputs = [name for name in header if name in wanted and name not in self.ignore and name != target]
        if not inputs:
            raise ConfigError("data.source.path", self.path, "has no column besides the target that is not ignored")
        return inputs, target

    def _fill(
        self, header: list[str], inputs: list[str], target: str, rows: int, words: Words
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs [rows, columns] (words as their numbers) and the target's raw values [rows]."""
        import pandas

        values = np.empty((rows, len(inputs)), np.float32)
        raw: list[np.ndarray] = []
        begin = 0
        kinds: Any = {name: "str" for name in words}
        tables = pandas.read_csv(
            self.path,
            sep=self.separator,
            names=header,
            header=0,
            usecols=[*inputs, target],
            chunksize=ROWS_AT_ONCE,
            dtype=kinds,
            skipinitialspace=True,
            low_memory=False,
            encoding="utf-8-sig",
        )
        for block in tables:
            end = begin + len(block)
            unexpected = []
            for place, name in enumerate(inputs):
                column = block[name]
                if name in words:
                    values[begin:end, place] = self._numbered(column, words[name], name)
                elif pandas.api.types.is_numeric_dtype(column):
                    values[begin:end, place] = column.to_numpy(np.float32, na_value=np.nan)
                elif column.isna().all():
                    values[begin:end, place] = np.nan
                else:
                    unexpected.append(name)
            if unexpected:
                raise HoldWords(unexpected)
            raw.append(block[target].to_numpy())
            begin = end
        return values, np.concatenate(raw)

    def _numbered(self, column: Any, known: dict[str, int], name: str) -> np.ndarray:
        numbers = numbered(column, known)
        if len(known) > MOST_WORDS:
            advice = f"column {name!r} has more than {MOST_WORDS} different strings"
            raise ConfigError("data.source.path", self.path, f"{advice}: exclude it with data.source.ignore=[{name}]")
        return numbers

    def _targets(self, raw: np.ndarray, name: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
        import pandas

        holes = np.flatnonzero(pandas.isna(raw))
        if len(holes):
            where = f"{self.path}, line {self._line(int(holes[0]))}, column {name}"
            raise ConfigError(message=f"{where}: the target is missing")
        numbers = raw.dtype.kind in "iuf"
        if numbers and not np.isfinite(raw).all():
            row = int(np.flatnonzero(~np.isfinite(raw))[0])
            where = f"{self.path}, line {self._line(row)}, column {name}"
            raise ConfigError(message=f"{where}: {raw[row]} is not a finite number; fix or remove the row")
        whole = numbers and bool(np.all(raw == np.floor(raw)))
        is_class = self.task == "classification"
        if self.task == "auto":
            is_class = not numbers or (whole and len(np.unique(raw)) <= MOST_CLASSES)
        if is_class:
            labels = raw.astype(np.int64) if whole else raw.astype(str)
            found, target = np.unique(labels, return_inverse=True)
            return target.astype(np.int64), tuple(str(each) for each in found)
        if not numbers:
            row = next(i for i, value in enumerate(raw) if not _is_number(value))
            where = f"{self.path}, line {self._line(row)}, column {name}"
            raise ConfigError(message=f"{where}: {raw[row]!r} is not a number, as data.source.task=regression needs")
        return raw.astype(np.float32)[:, None], None

    def _report(
        self,
        values: np.ndarray,
        columns: list[str],
        inputs: list[str],
        words: Words,
        classes: tuple[str, ...] | None,
    ) -> np.ndarray:
        """Log what was found, and which rows have missing values."""
        kinds = "".join(f"; {name}: {len(known)} words" for name, known in words.items())
        what = "numbers" if classes is None else f"{len(classes)} classes ({', '.join(classes[:10])})"
        numeric = len(inputs) - len(words)
        log.info("%s: %d rows, %d columns of numbers%s; target: %s", self.path, len(values), numeric, kinds, what)
        counts, holes = np.zeros(len(columns), np.int64), np.zeros(len(values), bool)
        for rows in blocks(values):
            absent = np.isnan(values[rows])
            counts += absent.sum(0)
            holes[rows] = absent.any(1)
        if not counts.any():
            return holes
        listed = ", ".join(f"{columns[place]} {counts[place]}" for place in np.flatnonzero(counts)[:20])
        if self.missing == "refuse":
            row = int(np.flatnonzero(holes)[0])
            column = columns[int(np.flatnonzero(np.isnan(values[row]))[0])]
            advice = "data.source.missing=drop removes such rows, mean fills in the column mean"
            where = f"{self.path}, line {self._line(row)}, column {column}"
            raise ConfigError(message=f"{where}: a value is missing (missing values in total: {listed}); {advice}")
        done = "dropped" if self.missing == "drop" else "filled with the mean of the training rows"
        log.info("%s: %d rows with missing values (%s), %s", self.path, holes.sum(), listed, done)
        return holes


def _only(kept: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The rows `kept`, in ascending order, moved to the front of the same array."""
    for begin in range(0, len(kept), ROWS_AT_ONCE):
        rows = kept[begin : begin + ROWS_AT_ONCE]
        values[begin : begin + len(rows)] = values[rows]
    return values[: len(kept)]


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
