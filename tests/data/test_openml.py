"""The OpenML loader, through scikit-learn's own: fewer images of the same shapes, as tests have no network.

Files are what OpenML would send (ARFF and JSON, compressed); `data.source.rows` and `test_from` are set to their size.
"""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.openml_server import ROWS, OpenMLServer, serve, table
from tests.supervised import SMALL, configuration, train

from downpour.config import ConfigError
from downpour.data.sources import OpenML


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[OpenMLServer]:
    monkeypatch.setenv("DOWNPOUR_DATA", str(tmp_path / "cache"))
    running = serve(monkeypatch)
    yield running
    running.http.shutdown()
    running.http.server_close()


@pytest.mark.parametrize(
    ("name", "shape", "rows", "test_from"),
    [
        ("mnist", (1, 28, 28), 70_000, 60_000),
        ("fashion_mnist", (1, 28, 28), 70_000, 60_000),
        ("cifar10", (3, 32, 32), 60_000, 50_000),
    ],
)
def test_a_run_on_each(
    server: OpenMLServer, tmp_path: Path, name: str, shape: tuple[int, ...], rows: int, test_from: int
) -> None:
    options = (*SMALL, f"data={name}", "optimizer.lr=1e-3", "data.batch_size=32", "data.validation=0.2")
    node = configuration(tmp_path / "other", *options)["data"]["source"]
    assert (node["rows"], node["test_from"]) == (rows, test_from)
    summary = train(tmp_path / "run", *options, f"data.source.rows={ROWS}", f"data.source.test_from={ROWS - 40}")
    assert summary["test/accuracy"] > 0.8
    del node["_target_"]
    samples = OpenML(**{**node, "rows": ROWS, "test_from": ROWS - 40}).load()
    images, labels = table(node["id"])
    assert np.array_equal(samples.inputs, images.reshape(-1, *shape).astype(np.float32) / np.float32(255))
    assert np.array_equal(samples.targets, labels) and samples.test_from == ROWS - 40
    assert server.requests["file"] == 1  # the second time it lies in the cache


def source(**options: Any) -> OpenML:
    return OpenML(
        **{"id": 554, "shape": [1, 28, 28], "classes": list("0123456789"), "rows": ROWS, "test_from": None, **options}
    )


def test_a_download_cut_short_is_refused_and_not_kept(server: OpenMLServer, tmp_path: Path) -> None:
    server.cut = 5000  # scikit-learn compares its checksum with OpenML's
    with pytest.warns(RuntimeWarning), pytest.raises(ConfigError, match=r"cannot be used \(The md5 checksum"):
        source().load()
    server.cut = 0
    with pytest.raises(ConfigError, match=r"OpenML sent 120 images and 120 labels where data\.source\.rows=70000"):
        source(rows=70_000).load()
    assert not list((tmp_path / "cache").glob("*.npz"))
    source().load()
    with pytest.raises(ConfigError, match=r"openml-554\.npz: 120 images .* delete it, to fetch it again"):
        source(rows=70_000).load()
    with pytest.raises(ConfigError, match=r"data\.source\.test_from=120: OpenML 554 has 120 rows"):
        source(test_from=120).load()


def test_a_damaged_copy_is_refused(server: OpenMLServer, tmp_path: Path) -> None:
    source().load()
    file = tmp_path / "cache" / "openml-554.npz"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(ConfigError, match="is corrupt"):
        source().load()
    file.with_suffix(".sha256").unlink()
    with pytest.raises(ConfigError, match=r"its checksum file openml-554\.sha256 is missing: copy it too, or delete"):
        source().load()


def test_images_of_another_size_and_labels_out_of_range_are_refused(server: OpenMLServer) -> None:
    with pytest.raises(ConfigError, match="OpenML 554: a row has 784 values, an image of 1 x 27 x 28 has 756"):
        source(shape=[1, 27, 28]).load()
    with pytest.raises(ConfigError, match=r"OpenML 554, row 9: the label 9 is out of range"):
        source(classes=list("012345678")).load().check()


def test_a_data_set_that_is_not_there_is_named(server: OpenMLServer) -> None:
    with pytest.raises(ConfigError, match=r"data\.source\.id=7: .*Dataset with data_id 7 not found"):
        source(id=7).load()


def test_two_that_fetch_at_once_take_turns(server: OpenMLServer, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:  # flock holds back another open file of the same process too
        first, second = pool.map(lambda _: source().load(), range(2))
    assert np.array_equal(first.inputs, second.inputs) and server.requests["file"] == 1
    assert sorted(path.suffix for path in (tmp_path / "cache").glob("openml-*")) == [".lock", ".npz", ".sha256"]


@pytest.mark.filterwarnings("ignore:A network error")
def test_without_a_network_it_says_what_to_do(server: OpenMLServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen: connections are refused
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setattr("sklearn.datasets._openml._DATA_INFO", address + "/info/{}")
        with pytest.raises(ConfigError, match=r"OpenML cannot be reached .*refused.*data=digits needs none"):
            source().load()
