"""Supervised runs: the loss, what a run writes, exact resume, what is refused."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from tests.supervised import SMALL, configuration, train, train_stopped
from torch import nn

from downpour import experiment
from downpour.algorithms.supervised import Supervised
from downpour.checkpoints import read
from downpour.config import ConfigError
from downpour.run import Run


def linear(input_space: spaces.Box, outputs: int, **_: object) -> nn.Module:
    return nn.Linear(input_space.shape[0], outputs).double()


def algorithm(target: spaces.Space, **options: object) -> Supervised:
    box = spaces.Box(-1, 1, (3,))
    return Supervised(box, target, linear, lambda p: torch.optim.SGD(p, lr=0.1), **options)  # type: ignore[arg-type]


def test_cross_entropy_is_the_mean_negative_log_likelihood() -> None:
    learner = algorithm(spaces.Discrete(4))
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    loss, metrics = learner.loss(TensorDict({"input": x, "target": y}, batch_size=[5]))
    weight, bias = (p.detach().numpy() for p in learner.network.parameters())
    z = x.numpy() @ weight.T + bias
    likelihood = np.exp(z)[np.arange(5), y.numpy()] / np.exp(z).sum(1)
    assert float(loss.detach()) == pytest.approx(-np.log(likelihood).mean(), rel=1e-12)
    assert float(metrics["accuracy"]) == pytest.approx((z.argmax(1) == y.numpy()).mean())


@pytest.mark.parametrize("name", ["squared", "huber"])
def test_losses_for_numbers(name: str) -> None:
    learner = algorithm(spaces.Box(-1, 1, (2,)), loss=name)
    outputs = torch.tensor([[0.5, 4.0], [-3.0, 0.0]])
    error = outputs.numpy()
    expected = error**2 if name == "squared" else np.where(np.abs(error) <= 1, error**2 / 2, np.abs(error) - 0.5)
    assert float(learner.error(outputs, torch.zeros(2, 2))) == pytest.approx(expected.mean())


@pytest.mark.parametrize(
    ("target", "loss"), [(spaces.Discrete(2), "squared"), (spaces.Box(-1, 1, (1,)), "cross_entropy")]
)
def test_a_loss_that_does_not_fit_the_targets_is_refused(target: spaces.Space, loss: str) -> None:
    with pytest.raises(ConfigError, match=r"algo\.loss=.*the targets are"):
        algorithm(target, loss=loss)


def test_a_run_learns_and_writes_what_a_run_writes(tmp_path: Path) -> None:
    summary = train(tmp_path, "algo=supervised", "total_gradient_steps=300", "eval_every=100", "optimizer.lr=2e-3")
    assert summary["gradient_steps"] == 300 and summary["status"] == "finished"
    assert summary["test/accuracy"] > 0.85 and summary["best/accuracy"] >= summary["eval/accuracy"]
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert next(iter(rows[0])) == "gradient_steps"
    assert [int(row["gradient_steps"]) for row in rows if row["eval/accuracy"]] == [100, 200, 300]
    assert [int(row["gradient_steps"]) for row in rows if row["test/accuracy"]] == [300]
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return read(directory / "checkpoints" / "last.ckpt")["state_dict"]


@pytest.mark.parametrize("at", [13, 20, 41])
def test_a_run_stopped_anywhere_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    options = (*SMALL, "data.augmentation.shift=1", "data.augmentation.noise=0.1", "callbacks.recorder.every=6")
    options = (*options, "model.dropout=0.2", "model.normalization=batch")
    train(tmp_path / "whole", *options)
    train_stopped(monkeypatch, tmp_path / "stopped", at, *options)
    for name in ("metrics.csv", "episodes.csv"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    whole, stopped = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_a_run_that_reads_from_files_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.standard_normal((300, 6), np.float32))
    np.save(tmp_path / "y.npy", rng.integers(0, 3, 300))
    where = (f"data.source.inputs={tmp_path}/x.npy", f"data.source.targets={tmp_path}/y.npy")
    options = (*SMALL, "data=arrays", *where)
    train(tmp_path / "memory", *options)
    train_stopped(monkeypatch, tmp_path / "files", 33, *options, "data.loader=workers")
    memory, files = weights(tmp_path / "memory"), weights(tmp_path / "files")
    assert all(torch.equal(memory[name], files[name]) for name in memory)
    assert (tmp_path / "files" / "metrics.csv").read_bytes() == (tmp_path / "memory" / "metrics.csv").read_bytes()


def test_the_number_of_updates_a_round_does_not_change_the_result(tmp_path: Path) -> None:
    for updates in (1, 20):
        train(tmp_path / str(updates), *SMALL, f"data.updates={updates}")
    one, twenty = weights(tmp_path / "1"), weights(tmp_path / "20")
    assert all(torch.equal(one[name], twenty[name]) for name in one)


def plain_run(tmp_path: Path, *options: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Any]:
    """Weights before and after a run of a linear network on Friedman's function, and the rounds it was given."""
    config = configuration(tmp_path, *SMALL, "data=regression", "model.hidden=[]", *options)
    run = Run(tmp_path, config["seed"], config["total_gradient_steps"], config["eval_every"], 0)
    algorithm, stream, _ = experiment.build_parts(config, run)
    before = {name: value.clone() for name, value in algorithm.state_dict().items()}
    experiment.fit(config, tmp_path)
    return before, weights(tmp_path), stream


def test_each_gradient_step_of_a_run_descends_on_the_mean_loss(tmp_path: Path) -> None:
    """(69) with the squared error of w x + b, by hand: g_w = 2/M sum of (w x + b - y) x."""
    options = ("optimizer=sgd", "optimizer.lr=0.1", "total_gradient_steps=5", "eval_every=5", "data.updates=5")
    before, after, stream = plain_run(tmp_path, *options)
    (w, b), (w_after, b_after) = ([v.double().numpy() for v in each.values()] for each in (before, after))
    (given,) = stream
    for x, y in zip(given["input"].double().numpy(), given["target"].double().numpy(), strict=True):
        error = x @ w.T + b - y
        w, b = w - 0.1 * 2 / len(x) * error.T @ x, b - 0.1 * 2 / len(x) * error.sum(0)
    assert np.allclose(w_after, w, atol=1e-6) and np.allclose(b_after, b, atol=1e-6)
    assert np.abs(w_after - before["network.layers.0.weight"].numpy()).max() > 1e-3


LBFGS = ("optimizer=lbfgs", "data.source.rows=200", "data.batch_size=140", "data.updates=1", "eval_every=1")


def test_lbfgs_solves_a_quadratic(tmp_path: Path) -> None:
    """All training rows in each batch: the squared error of a linear map, whose least is known in closed form."""
    _, after, stream = plain_run(tmp_path, *LBFGS, "total_gradient_steps=2", "optimizer.max_iter=30")
    rows = stream.rows["train"]
    x, y = (each[rows].double().numpy() for each in (stream.inputs, stream.targets))
    best, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y[:, 0], rcond=None)
    w, b = (value.double().numpy() for value in after.values())
    assert np.allclose(np.append(w, b), best, atol=1e-4)


def test_lbfgs_takes_torchs_steps_on_the_same_closure(tmp_path: Path) -> None:
    options = ("total_gradient_steps=1", "optimizer.max_iter=3")
    before, after, stream = plain_run(tmp_path, *LBFGS, *options)
    (batch,) = next(iter(stream)).unbind(0)
    w, b = (nn.Parameter(value.clone()) for value in before.values())
    theirs = torch.optim.LBFGS([w, b], lr=1.0, max_iter=3, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        theirs.zero_grad()
        loss = (batch["input"] @ w.T + b - batch["target"]).square().mean()
        loss.backward()
        return loss

    theirs.step(closure)
    assert all(torch.allclose(ours, p, atol=1e-6) for ours, p in zip(after.values(), (w, b), strict=True))
    assert not torch.allclose(after["network.layers.0.weight"], before["network.layers.0.weight"], atol=1e-2)


def test_lbfgs_evaluates_the_loss_as_often_as_it_likes(tmp_path: Path) -> None:
    options = ("data=two_moons", "model.hidden=[16]", "data.batch_size=1400", "optimizer=lbfgs")
    summary = train(tmp_path, *SMALL, *options)
    assert summary["gradient_steps"] == 60
    assert summary["test/accuracy"] > 0.98


def test_regression_is_judged_by_its_loss(tmp_path: Path) -> None:
    summary = train(tmp_path, *SMALL, "data=regression", "total_gradient_steps=400", "eval_every=100")
    assert summary["best/loss"] < 0.5 and 0.5 < summary["test/r2"] <= 1


def test_large_targets_are_learned_at_the_default_step_size(tmp_path: Path) -> None:
    """Prices, say: metrics are in their units, the loss is that of standardized targets."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 3))
    y = 2e5 + 5e4 * (x[:, 0] - x[:, 1]) + 1e3 * rng.standard_normal(400)
    lines = "".join(f"{a:.4f},{b:.4f},{c:.4f},{price:.1f}\n" for (a, b, c), price in zip(x, y, strict=True))
    (tmp_path / "t.csv").write_text("a,b,c,price\n" + lines)
    options = ("data=csv", f"data.source.path={tmp_path / 't.csv'}", "callbacks=regression", "total_gradient_steps=400")
    summary = train(tmp_path / "run", *SMALL, *options, "eval_every=200")
    deviation = np.std(y)
    assert summary["test/r2"] > 0.95 and 1e3 < summary["test/rmse"] < 0.2 * deviation
    assert summary["test/loss"] == pytest.approx((summary["test/rmse"] / deviation) ** 2, rel=0.2)


def test_a_diverging_run_says_what_to_change(tmp_path: Path) -> None:
    from downpour.algorithms.base import TrainingError

    with pytest.raises(TrainingError, match=r"lower optimizer\.lr"):
        train(tmp_path, *SMALL, "data=regression", "optimizer=sgd", "optimizer.lr=1e6")


def test_an_algorithm_and_a_data_set_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="learns from data=replay"):
        configuration(tmp_path, "algo=dqn", "data=digits")
