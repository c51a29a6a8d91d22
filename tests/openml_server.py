"""A stand-in for OpenML: a server on this machine that scikit-learn's own loader talks to."""

import gzip
import hashlib
import json
import re
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest

ROWS = 120
PIXELS = {554: 784, 40996: 784, 40927: 3072}


def table(data_id: int, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Images [rows, pixels] of noise in which the label is the brightest of ten stripes, and labels."""
    rng, labels = np.random.default_rng(data_id), np.arange(rows) % 10
    images = rng.integers(0, 100, (rows, PIXELS[data_id]), np.uint8)
    width = PIXELS[data_id] // 10
    for row, label in enumerate(labels):
        images[row, label * width : (label + 1) * width] += 150
    return images, labels


class OpenMLServer:
    """Answers what `fetch_openml` asks, as OpenML's documentation of its API has it.

    Attributes:
        requests: how often each kind of answer was asked for.
        cut: bytes that the data file lacks at its end.
        rows: of every data set.
    """

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.cut, self.rows = 0, ROWS
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                code, body = outer.answer(self.path)
                self.send_response(code)
                self.send_header("Content-Encoding", "gzip")
                self.end_headers()
                self.wfile.write(gzip.compress(body, 1))

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, path: str) -> tuple[int, bytes]:
        kind, number = re.fullmatch(r"/(\w+)/(\d+)", path).groups()  # type: ignore[union-attr]
        self.requests[kind] += 1
        if int(number) not in PIXELS:
            return 412, b"{}"  # OpenML's way to say that there is no such data set
        return 200, getattr(self, f"_{kind}")(int(number))

    def _arff(self, data_id: int) -> bytes:
        images, labels = table(data_id, self.rows)
        header = "".join(f"@ATTRIBUTE pixel{i} INTEGER\n" for i in range(images.shape[1]))
        header += "@ATTRIBUTE class {" + ",".join(map(str, range(10))) + "}\n"
        rows = "\n".join(",".join(map(str, (*row, label))) for row, label in zip(images, labels, strict=True))
        return f"@RELATION stand_in\n{header}@DATA\n{rows}\n".encode()

    def _file(self, data_id: int) -> bytes:
        content = self._arff(data_id)
        return content[: len(content) - self.cut]

    def _info(self, data_id: int) -> bytes:
        description = {"id": str(data_id), "name": "stand_in", "version": "1", "description": "", "format": "ARFF"}
        checksum = hashlib.md5(self._arff(data_id), usedforsecurity=False).hexdigest()
        more = {"status": "active", "url": f"{self.url}/file/{data_id}", "md5_checksum": checksum, "file_id": "1"}
        return json.dumps({"data_set_description": description | more}).encode()

    def _features(self, data_id: int) -> bytes:
        common = {"is_ignore": "false", "is_row_identifier": "false", "number_of_missing_values": "0"}
        pixels = [
            {"index": str(i), "name": f"pixel{i}", "data_type": "numeric", "is_target": "false", **common}
            for i in range(PIXELS[data_id])
        ]
        label = {"index": str(len(pixels)), "name": "class", "data_type": "nominal", "is_target": "true", **common}
        label["nominal_value"] = [str(i) for i in range(10)]  # type: ignore[assignment]
        return json.dumps({"data_features": {"feature": [*pixels, label]}}).encode()

    def _qualities(self, data_id: int) -> bytes:
        quality = [{"name": "NumberOfInstances", "value": str(self.rows)}]
        return json.dumps({"data_qualities": {"quality": quality}}).encode()


def serve(monkeypatch: pytest.MonkeyPatch) -> OpenMLServer:
    """A server that scikit-learn takes for OpenML; only the addresses are changed."""
    server = OpenMLServer()
    for name, kind in (("_DATA_INFO", "info"), ("_DATA_FEATURES", "features"), ("_DATA_QUALITIES", "qualities")):
        monkeypatch.setattr(f"sklearn.datasets._openml.{name}", f"{server.url}/{kind}/{{}}")
    return server
