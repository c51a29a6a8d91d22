"""Runs that end early: at a threshold, or when nothing has got better for a while."""

import csv
import math
from pathlib import Path

import pytest
from tests.supervised import train, train_stopped

from downpour.callbacks import EarlyStop
from downpour.config import ConfigError

OPTIONS = ("algo=supervised", "model.hidden=[16]", "total_gradient_steps=200", "eval_every=20", "data.updates=7")


def evaluations(directory: Path, name: str) -> list[float]:
    with open(directory / "metrics.csv", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


@pytest.mark.parametrize(
    ("mode", "values", "reason"),
    [
        ("max", [0.5, 0.7, 0.6, 0.7], "has not improved on 0.7 for 2"),
        ("min", [0.5, 0.3, 0.4, math.nan], "has not improved on 0.3 for 2"),
        ("max", [0.5, 0.7, 0.9], "m 0.9 reaches 0.9"),
        ("min", [0.95, 0.92, 0.9], "m 0.9 reaches 0.9"),
    ],
)
def test_the_last_of_these_evaluations_ends_the_run(mode: str, values: list[float], reason: str) -> None:
    stop = EarlyStop(monitor="m", mode=mode, threshold=0.9 if "reaches" in reason else None, patience=2)  # type: ignore[arg-type]

    class Trainer:
        should_stop = False
        callback_metrics: dict[str, float]

    trainer = Trainer()
    for value in values:
        assert not trainer.should_stop
        trainer.callback_metrics = {"m": value}
        said = stop.ends(trainer.callback_metrics)
        stop.on_train_epoch_end(trainer, None)
    assert trainer.should_stop and reason in said


def test_a_run_on_a_data_set_ends_when_its_accuracy_stays_where_it_is(tmp_path: Path) -> None:
    options = ("optimizer=sgd", "optimizer.lr=1e-12", "callbacks.early_stop.patience=3")
    summary = train(tmp_path, *OPTIONS, *options)
    assert summary["status"] == "finished" and summary["gradient_steps"] == 80  # the first evaluation is the best one
    assert len(evaluations(tmp_path, "eval/accuracy")) == 4
    assert len(evaluations(tmp_path, "test/accuracy")) == 1 and (tmp_path / "confusion.png").exists()


def test_the_loss_may_be_watched_and_a_stopped_run_goes_on_counting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("data=regression", "data.source.rows=60", "data.batch_size=8", "callbacks.early_stop.patience=2")
    options = (*options, "optimizer.lr=3e-2", "callbacks.recorder.every=5")
    summary = train(tmp_path / "whole", *OPTIONS, *options)
    losses = evaluations(tmp_path / "whole", "eval/loss")
    assert summary["gradient_steps"] < 200 and min(losses[-2:]) >= min(losses)
    train_stopped(monkeypatch, tmp_path / "stopped", summary["gradient_steps"] - 10, *OPTIONS, *options)
    assert (tmp_path / "stopped/metrics.csv").read_text() == (tmp_path / "whole/metrics.csv").read_text()


def test_a_metric_that_nobody_measures_is_named(tmp_path: Path) -> None:
    options = ("callbacks.early_stop.patience=1", "callbacks.early_stop.monitor=eval/acuracy")
    with pytest.raises(ConfigError, match=r"early_stop\.monitor=eval/acuracy: is not measured here; .*eval/accuracy"):
        train(tmp_path, *OPTIONS, *options)


def test_without_an_evaluation_it_says_what_is_missing(tmp_path: Path) -> None:
    options = ("callbacks.early_stop.threshold=1", "~callbacks.validation")
    with pytest.raises(ConfigError, match=r"is not measured here; nothing is: add callbacks\.evaluation"):
        train(tmp_path, *OPTIONS, *options)


def test_a_training_metric_may_be_watched(tmp_path: Path) -> None:
    options = ("callbacks.early_stop.monitor=train/loss", "callbacks.early_stop.mode=min")
    summary = train(tmp_path, *OPTIONS, *options, "callbacks.early_stop.threshold=1e9")
    assert summary["gradient_steps"] == 20 and len(evaluations(tmp_path, "test/accuracy")) == 1
