"""Image data sets from OpenML, through scikit-learn's loader."""

import hashlib
import logging
import os
from pathlib import Path

import numpy as np

from downpour.config import ConfigError, PositiveInt, how_to_install
from downpour.data.samples import Samples, as_images
from downpour.data.sources.base import Source

log = logging.getLogger(__name__)


class OpenML(Source):
    """Images with labels 0, 1, ..., fetched once and kept as bytes beside their checksum.

    scikit-learn compares what it downloads with the checksum OpenML gives; the kept file is compared with its own.
    """

    def __init__(
        self,
        *,
        id: PositiveInt,
        shape: list[PositiveInt],
        classes: list[str],
        test_from: PositiveInt | None = None,
        cache: str | None = None,
    ):
        """
        Args:
            id: number of the data set on OpenML.
            shape: [channels, height, width] of an image.
            classes: names of the labels.
            test_from: first row of the data set's own test split; null draws one.
            cache: directory to keep it in; null takes $DOWNPOUR_DATA, or else ~/.cache/downpour.
        """
        self.id, self.shape, self.classes, self.test_from = id, shape, tuple(classes), test_from
        place = cache or os.environ.get("DOWNPOUR_DATA") or "~/.cache/downpour"
        self.cache = Path(place).expanduser()

    def load(self) -> Samples:
        """
        Raises:
            ConfigError: it can neither be fetched nor found, or is not what it was.
        """
        file = self.cache / f"openml-{self.id}.npz"
        if not file.exists():
            self._fetch(file)
        if file.with_suffix(".sha256").read_text().split()[0] != _checksum(file):
            raise ConfigError(
                "data.source.cache", file, "is damaged (its checksum differs): delete it, to fetch it again"
            )
        with np.load(file) as kept:
            images, labels = kept["images"], kept["labels"]
        origin = f"OpenML {self.id}"
        images = as_images(images, self.shape, origin)
        test_from = self.test_from if self.test_from is not None and self.test_from < len(images) else None
        pixels = images.astype(np.float32)
        pixels /= 255.0
        return Samples(pixels, labels.astype(np.int64), self.classes, origin, test_from=test_from)

    def _fetch(self, file: Path) -> None:
        try:
            from sklearn.datasets import fetch_openml
        except ImportError:
            advice = f"needs scikit-learn, which is not installed; {how_to_install('supervised')}"
            raise ConfigError("data", "openml", advice) from None
        log.info("fetching data set %d from OpenML to %s", self.id, file)
        self.cache.mkdir(parents=True, exist_ok=True)
        try:
            found = fetch_openml(data_id=self.id, as_frame=False, data_home=self.cache / "openml", delay=0.5)
        except OSError as error:  # no network, a refused connection, a server's error
            advice = "it has not been fetched yet and OpenML cannot be reached"
            copy = (
                f"with a network once, or copy {file.name} and its .sha256 from a machine that has it to {self.cache}"
            )
            raise ConfigError(
                "data.source.id", self.id, f"{advice} ({error}): run {copy}; data=digits needs none"
            ) from None
        labels = np.array([int(float(label)) for label in found.target], np.int16)
        partial = file.with_suffix(".partial.npz")
        np.savez_compressed(partial, images=np.asarray(found.data).astype(np.uint8), labels=labels)
        file.with_suffix(".sha256").write_text(f"{_checksum(partial)}  {file.name}\n")
        os.replace(partial, file)


def _checksum(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
