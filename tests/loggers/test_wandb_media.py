"""Pictures and films that W&B is given, read back from its own files."""

import os
from pathlib import Path
from typing import Any

import pytest
import tests.supervised
from tests.loggers.wandb_file import read_runs
from tests.training import composed

from downpour import jobs

OFFLINE = ("logger=wandb", "logger.wandb.mode=offline", "logger.wandb.upload_checkpoint=false")


@pytest.fixture(autouse=True)
def own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine's owner, nothing left in their home."""
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]:
        monkeypatch.delenv(name)
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))


def kept(directory: Path, entry: dict[str, Any]) -> list[bytes]:
    """The contents of the files that an entry of the history names."""
    names = entry.get("filenames") or [entry["path"]]
    found = [next(directory.glob(f"wandb/*run-*/files/{name}")) for name in names]
    return [path.read_bytes() for path in found]


def test_the_confusion_of_the_test_split_is_in_wandb(tmp_path: Path) -> None:
    run = tmp_path / "run"
    jobs.run(composed(*tests.supervised.SMALL, *OFFLINE), run, (), {})
    (found,) = read_runs(run)
    (row,) = (row for row in found.history if "test/confusion" in row)
    assert row["gradient_steps"] == 60 == row["_step"] and "test/accuracy" in row
    assert kept(run, row["test/confusion"]) == [(run / "confusion.png").read_bytes()]


def test_a_film_is_in_wandb(tmp_path: Path) -> None:
    run, short = tmp_path / "run", ("total_env_steps=64", "eval_every=64", "eval_episodes=1", "data.learning_starts=32")
    options = ("callbacks=video", "callbacks.video.max_episode_steps=8", *short, *OFFLINE)
    jobs.run(composed(*options), run, (), {})
    (found,) = read_runs(run)
    (row,) = (row for row in found.history if "eval/video" in row)
    (film,) = (run / "videos").glob("*.mp4")
    assert row["env_steps"] == 64 and row["eval/video"]["captions"] == [film.stem]
    assert kept(run, row["eval/video"]["videos"][0]) == [film.read_bytes()]
