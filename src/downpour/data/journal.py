"""An append-only journal of rows on disk, so that a checkpoint of the replay buffer writes only new rows."""

import os
from pathlib import Path

import numpy as np


class Journal:
    """Rows of one fixed type, numbered from 0, in segment files.

    Row i is always at the same position of the same file. A run that resumes from an older checkpoint overwrites the
    rows written after it, and never reads them.
    """

    def __init__(self, directory: Path, dtype: np.dtype, segment: int):
        """
        Args:
            directory: used by this journal only.
            dtype: of a row.
            segment: rows per file.
        """
        self.directory, self.dtype, self.segment = directory, dtype, segment
        self._written: set[Path] = set()  # since the last `sync`
        self._is_new = False  # whether a new file is among them

    def write(self, first: int, rows: np.ndarray) -> None:
        """Write `rows` as rows `first`, `first + 1`, ...; durable after the next `sync`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        while len(rows):
            number, offset = divmod(first, self.segment)
            part = rows[: self.segment - offset]
            path = self._path(number)
            exists = path.exists()
            with open(path, "r+b" if exists else "xb") as file:
                file.seek(offset * self.dtype.itemsize)
                file.write(np.ascontiguousarray(part).view(np.uint8).data)
            self._written.add(path)
            self._is_new = self._is_new or not exists
            first, rows = first + len(part), rows[len(part) :]

    def sync(self) -> None:
        """Flush everything written to the disk; checkpoints that refer to it are valid afterwards."""
        for path in sorted(self._written):
            _sync(path)
        if self._is_new:  # a new file's name is durable once its folder is synced
            _sync(self.directory)
            _sync(self.directory.parent)
        self._written, self._is_new = set(), False

    def read(self, first: int, last: int) -> np.ndarray:
        """Rows `first` to `last` (exclusive).

        Raises:
            FileNotFoundError, EOFError: some rows are missing.
        """
        parts = []
        while first < last:
            number, offset = divmod(first, self.segment)
            wanted = min(last - first, self.segment - offset)
            with open(self._path(number), "rb") as file:
                file.seek(offset * self.dtype.itemsize)
                data = file.read(wanted * self.dtype.itemsize)
            if len(data) < wanted * self.dtype.itemsize:
                raise EOFError(f"{self._path(number)} ends before row {first + wanted}")
            parts.append(np.frombuffer(data, self.dtype))
            first += wanted
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def prune(self, first_needed: int) -> None:
        """Delete the files whose rows all lie before `first_needed`."""
        for path in self.directory.glob("rows-*.bin"):
            if (int(path.stem[5:]) + 1) * self.segment <= first_needed:
                path.unlink()

    def _path(self, number: int) -> Path:
        return self.directory / f"rows-{number:06d}.bin"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
