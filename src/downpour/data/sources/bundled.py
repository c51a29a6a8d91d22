"""Data that comes with scikit-learn: no download."""

import numpy as np

from downpour.config import ConfigError, how_to_install
from downpour.data.samples import Samples
from downpour.data.sources.base import Source


class Digits(Source):
    """1 797 images of handwritten digits, 1 x 8 x 8, sixteen shades (Alpaydin and Kaynak, 1998)."""

    def load(self) -> Samples:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            advice = f"needs scikit-learn, which is not installed; {how_to_install('supervised')}"
            raise ConfigError("data", "digits", advice) from None
        found = load_digits()
        images = (found.images / 16.0).astype(np.float32)[:, None]
        names = tuple(str(name) for name in found.target_names)
        return Samples(images, found.target.astype(np.int64), names, origin="digits")
