"""Image data sets from OpenML, through scikit-learn's loader."""

import fcntl
import hashlib
import http.client
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from downpour.config import ConfigError, PositiveInt, how_to_install
from downpour.data.samples import Samples, as_images
from downpour.data.sources.base import Source

log = logging.getLogger(__name__)

UNUSABLE = (ValueError, KeyError, EOFError, zlib.error, http.client.HTTPException)  # OpenMLError is a ValueError


class OpenML(Source):
    """Images with labels 0, 1, ..., downloaded once and cached as bytes with their checksum.

    scikit-learn verifies the download against OpenML's checksum; the cached file is verified against its own.
    """

    def __init__(
        self,
        *,
        id: PositiveInt,
        shape: list[PositiveInt],
        classes: list[str],
        rows: PositiveInt | None,
        test_from: PositiveInt | None,
        cache: str | None = None,
    ):
        """
        Args:
            id: number of the data set on OpenML.
            shape: [channels, height, width] of an image.
            classes: names of the labels.
            rows: expected number, so that a truncated download is detected; null accepts any number.
            test_from: first row of the data set's own test split; null draws one.
            cache: cache directory; null takes $DOWNPOUR_DATA, or else ~/.cache/downpour.
        """
        self.id, self.shape, self.classes, self.rows, self.test_from = id, shape, tuple(classes), rows, test_from
        place = cache or os.environ.get("DOWNPOUR_DATA") or "~/.cache/downpour"
        self.cache = Path(place).expanduser()

    def load(self) -> Samples:
        """
        Raises:
            ConfigError: it can be neither downloaded nor found, or the cached file is damaged.
        """
        file = self.cache / f"openml-{self.id}.npz"
        if not file.exists():
            self._fetch(file)
        again = "delete it, to fetch it again"
        note = file.with_suffix(".sha256")
        if not note.exists():
            raise ConfigError(
                "data.source.cache", file, f"its checksum file {note.name} is missing: copy it too, or {again}"
            )
        if note.read_text().split()[:1] != [_checksum(file)]:
            raise ConfigError("data.source.cache", file, f"is corrupt (checksum mismatch): {again}")
        with np.load(file) as kept:
            images, labels = kept["images"], kept["labels"]
        if wrong := self._wrong(images, labels):
            raise ConfigError("data.source.cache", file, f"{wrong}: {again}")
        images = as_images(images, self.shape, self.origin)
        if self.test_from is not None and self.test_from >= len(images):
            advice = f"{self.origin} has {len(images)} rows; null draws a test split"
            raise ConfigError("data.source.test_from", self.test_from, advice)
        pixels = images.astype(np.float32)
        pixels /= 255.0
        return Samples(pixels, labels.astype(np.int64), self.classes, self.origin, test_from=self.test_from)

    @property
    def origin(self) -> str:
        """Its name in messages."""
        return f"OpenML {self.id}"

    def _wrong(self, images: np.ndarray, labels: np.ndarray) -> str:
        """Why the data set is incomplete; empty if it is not."""
        if self.rows is None or (len(images), len(labels)) == (self.rows, self.rows):
            return ""
        return f"{len(images)} images and {len(labels)} labels where data.source.rows={self.rows}"

    def _fetch(self, file: Path) -> None:
        try:
            from sklearn.datasets import fetch_openml
        except ImportError:
            advice = f"needs scikit-learn, which is not installed; {how_to_install('supervised')}"
            raise ConfigError("data", "openml", advice) from None
        self.cache.mkdir(parents=True, exist_ok=True)
        with _turn(file.with_suffix(".lock")):
            if file.exists():  # another process was faster
                return
            log.info("downloading data set %d from OpenML to %s", self.id, file)
            try:
                found = fetch_openml(
                    data_id=self.id,
                    as_frame=False,
                    data_home=self.cache / "openml",
                    delay=0.5,
                    # All columns are numbers, the labels too. By default scikit-learn 1.9 takes labels for strings,
                    # fails when pandas 3 reads them as integers, and makes the pixels float64.
                    read_csv_kwargs={"dtype": "float32"},
                )
            except OSError as error:  # no network, a refused connection, a server's error
                raise self._unavailable(f"OpenML cannot be reached ({error})", file) from None
            except UNUSABLE as error:  # no such data set, a checksum that differs, a file cut short
                raise self._unavailable(f"what OpenML sends cannot be used ({error})", file) from None
            images = np.asarray(found.data).astype(np.uint8)
            labels = np.asarray(found.target).astype(np.int16)
            if wrong := self._wrong(images, labels):
                raise self._unavailable(f"OpenML sent {wrong}", file)
            partial = file.with_suffix(f".{os.getpid()}.npz")
            np.savez_compressed(partial, images=images, labels=labels)
            file.with_suffix(".sha256").write_text(f"{_checksum(partial)}  {file.name}\n")
            os.replace(partial, file)

    def _unavailable(self, reason: str, file: Path) -> ConfigError:
        copy = f"with a network once, or copy {file.name} and its .sha256 from a machine that has it to {self.cache}"
        advice = f"it has not been fetched yet and {reason}: run {copy}; data=digits needs none"
        return ConfigError("data.source.id", self.id, advice)


@contextmanager
def _turn(lock: Path) -> Iterator[None]:
    """One process at a time; the lock is released when a process dies."""
    with open(lock, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems have no locks
            log.warning("%s cannot be locked (%s)", lock, error.strerror)
        yield


def _checksum(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
