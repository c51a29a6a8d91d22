"""Runs on data sets, composed as the command line composes them and trained in this process."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from downpour import directory as directories
from downpour import experiment
from downpour.callbacks.checkpoint import Checkpoint
from downpour.cli import CONF
from downpour.failures import Stopped
from downpour.validation import validate

SMALL = ("algo=supervised", "total_gradient_steps=60", "eval_every=20", "data.updates=7")


def configuration(directory: Path, *overrides: str) -> dict[str, Any]:
    """The checked configuration of a run."""
    with initialize_config_dir(CONF, version_base="1.3"):
        composed = compose("train", overrides=[*overrides, f"hydra.run.dir={directory}"])
    plain: Any = OmegaConf.to_container(composed, resolve=True)
    plain["logger"] = {}
    return validate(plain)


def train(directory: Path, *overrides: str) -> dict[str, Any]:
    """Train in `directory`; its summary."""
    config = configuration(directory, *overrides)
    directories.write_config(directory, config, {})
    experiment.fit(config, directory)
    return directories.read_summary(directory)


def train_stopped(monkeypatch: pytest.MonkeyPatch, directory: Path, at: int, *overrides: str) -> None:
    """Train, be told to stop after the round that reaches step `at`, and go on in a second run of the loop."""
    ask = Checkpoint.on_train_batch_end

    def asked(self: Checkpoint, trainer: Any, *rest: Any) -> None:
        if trainer.datamodule.step >= at:
            self._signal = 15
        ask(self, trainer, *rest)

    config = configuration(directory, *overrides)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Checkpoint, "on_train_batch_end", asked)
        experiment.fit(config, directory)
    experiment.fit({**config, "resume": str(directory)}, directory)
