"""The OpenML loader, on a stand-in of the same shapes: the tests have no network."""

import urllib.error
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.supervised import SMALL, configuration, train

from downpour.config import ConfigError
from downpour.data.sources import OpenML

ROWS = 120


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Serve noise in which the label is the brightest of ten stripes, in place of scikit-learn's download."""
    made: list[int] = []
    pixels = {554: 784, 40996: 784, 40927: 3072}

    def fetch(data_id: int, **_: Any) -> SimpleNamespace:
        made.append(data_id)
        rng = np.random.default_rng(data_id)
        labels = np.arange(ROWS) % 10
        images = rng.integers(0, 100, (ROWS, pixels[data_id]))
        width = pixels[data_id] // 10
        for row, label in enumerate(labels):
            images[row, label * width : (label + 1) * width] += 150
        return SimpleNamespace(data=images.astype(np.float64), target=np.array([str(label) for label in labels]))

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    monkeypatch.setenv("DOWNPOUR_DATA", str(tmp_path / "cache"))
    return made


@pytest.mark.parametrize(
    ("name", "shape"), [("mnist", (1, 28, 28)), ("fashion_mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))]
)
def test_a_run_on_each(calls: list[int], tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    options = (*SMALL, f"data={name}", "optimizer.lr=1e-3", "data.batch_size=32", "data.validation=0.2")
    summary = train(tmp_path / "run", *options)
    assert summary["test/accuracy"] > 0.8
    node = configuration(tmp_path / "other", *options)["data"]["source"]
    node.pop("_target_")
    samples = OpenML(**node).load()
    assert samples.inputs.shape == (ROWS, *shape) and samples.inputs.max() <= 1 and len(samples.classes or ()) == 10
    assert len(calls) == 1  # the second time it lies in the cache


def source(**options: Any) -> OpenML:
    return OpenML(**{"id": 554, "shape": [1, 28, 28], "classes": list("0123456789"), **options})


def test_its_own_test_split_is_kept(calls: list[int]) -> None:
    assert source(test_from=100).load().test_from == 100


def test_a_damaged_copy_is_refused(calls: list[int], tmp_path: Path) -> None:
    source().load()
    file = tmp_path / "cache" / "openml-554.npz"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(ConfigError, match="is damaged"):
        source().load()


def test_images_of_another_size_and_labels_out_of_range_are_refused(calls: list[int]) -> None:
    with pytest.raises(ConfigError, match="OpenML 554: a row has 784 values, an image of 1 x 27 x 28 has 756"):
        source(shape=[1, 27, 28]).load()
    with pytest.raises(ConfigError, match=r"OpenML 554, row 9: the label 9 is out of range"):
        source(classes=list("012345678")).load().check()


def test_without_a_network_it_says_what_to_do(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", refuse)
    with pytest.raises(ConfigError, match=r"OpenML cannot be reached .*data=digits needs none"):
        source().load()
