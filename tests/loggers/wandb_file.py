"""Reading a W&B run's own file back: records in LevelDB's log format, each a protocol buffer."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32 * 1024, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> list[Any]:
    """All records of a .wandb file."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    found, partial, at = [], b"", HEADER  # the file's own header is as long as a record's
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block that holds no header is padding
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        at += HEADER + length
        if at > len(data):  # still being written
            break
        partial += data[at - length : at]
        if kind in (FULL, LAST):
            found.append(Record.FromString(partial))
            partial = b""
        else:
            assert kind in (FIRST, MIDDLE)
    return found


class WandBFile:
    """What W&B was told of one run.

    Attributes:
        id, group, tags, project, name: of the run.
        config: the latest value of every key.
        history: a dictionary a row.
        summary: the last value of every key.
        metrics: step metric by metric name.
        artifacts: name, aliases and type of each.
        files: in all of these.
        exit_code: None where the run was not finished.
    """

    def __init__(self, path: Path):
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.metrics: dict[str, str] = {}
        self.artifacts: list[tuple[str, list[str], str]] = []
        self.files: list[str] = []
        self.exit_code: int | None = None
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run = record.run
                self.id, self.group, self.project, self.name = run.run_id, run.run_group, run.project, run.display_name
                self.tags = list(run.tags)
                _update(self.config, run.config.update)
            elif kind == "config":
                _update(self.config, record.config.update)
            elif kind == "history":
                self.history.append(_update({}, record.history.item))
            elif kind == "summary":
                _update(self.summary, record.summary.update)
            elif kind == "metric":
                self.metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
            elif kind == "artifact":
                a = record.artifact
                self.artifacts.append((a.name, sorted(a.aliases), a.type))
                self.files += [entry.path for entry in a.manifest.contents]
            elif kind == "exit":
                self.exit_code = record.exit.exit_code


def _update(target: dict[str, Any], items: Any) -> dict[str, Any]:
    for item in items:
        *parents, name = list(item.nested_key) or [item.key]
        node = target
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = json.loads(item.value_json)
    return target


def read_runs(directory: Path) -> list[WandBFile]:
    """Every W&B file of finished runs in a run directory, in the order they were begun."""
    paths = sorted(directory.glob("wandb/*run-*/*.wandb"))
    for _ in range(300):  # W&B's own process may still be writing
        runs = [WandBFile(path) for path in paths]
        if all(run.exit_code is not None for run in runs):
            return runs
        time.sleep(0.1)
    raise AssertionError(f"not finished: {paths}")
