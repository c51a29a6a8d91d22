"""Captured gradient steps are the steps that they stand for; what cannot be captured is told."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tests.commands import SMALL, checkpoint, rows
from tests.supervised import configuration, train, train_stopped

from downpour.algorithms.base import Algorithm
from downpour.algorithms.supervised import Supervised
from downpour.config import ConfigError
from downpour.experiment import build_parts
from downpour.failures import TrainingError
from downpour.graphs import WARMUP, CapturedStep, Slot
from downpour.run import Run

gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
GAME = tuple(o for o in SMALL if not o.startswith("logger"))
ON_GPU = ("trainer=gpu", "trainer.deterministic=true", "callbacks.recorder.every=64")
RULES = {
    "dqn": ("algo=dqn", "algo.target_every=3", "algo.gradient_clip=1"),
    "double_dqn": ("algo=double_dqn", "algo.loss=huber", "schedule=cosine", "schedule.steps=100"),
    "polyak": ("algo=dqn", "algo.target_every=1", "algo.target_tau=0.01", "algo.clip_td_error=1"),
    "rmsprop": ("algo=dqn", "optimizer=rmsprop", "optimizer.centered=true", "schedule=step", "schedule.every=7"),
    "sgd": ("algo=dqn", "optimizer=sgd", "optimizer.momentum=0.9", "schedule=cosine", "schedule.steps=100"),
    "priorities": ("algo=double_dqn", "data.priority_exponent=0.6", "data.n_step=3"),
    "rainbow": (
        "algo=double_dqn",
        "algo/distribution=categorical",
        "data.priority_exponent=0.5",
        "model.dueling=true",
        "model.noise=0.5",
    ),
    "bf16": ("algo=dqn", "trainer.precision=bf16-mixed"),
    "ddpg": ("algo=actor_critic", "env=pendulum", "algo.random_steps=64"),
    "td3": ("algo=td3", "env=pendulum", "algo.random_steps=64"),
    "sac": ("algo=sac", "env=pendulum", "algo.random_steps=64"),
}
FITS = {
    "mlp": ("model.hidden=[32]", "algo.gradient_clip=0.5", "schedule=cosine"),
    "convnet": ("model=convnet", "model.normalization=batch", "model.dropout=0.1", "optimizer=adamw"),
}


def on_and_off(folder: Path, *options: str) -> None:
    """A run by graphs and one without have the same metrics, episodes and weights, to the last bit."""
    for name, value in (("on", "true"), ("off", "false")):
        train(folder / name, *options, f"trainer.cuda_graph={value}")
    files = [path.name for path in (folder / "off").glob("*.csv") if path.name != "timing.csv"]
    assert "metrics.csv" in files
    for name in files:
        assert rows(folder / "on" / name) == rows(folder / "off" / name), name
    mine, theirs = (checkpoint(folder / name) for name in ("on", "off"))
    assert mine["gradient_steps"] == theirs["gradient_steps"] > WARMUP + 4
    for name, value in mine["state_dict"].items():
        assert torch.equal(value, theirs["state_dict"][name]), name


@gpu
@needs_gpu
@pytest.mark.parametrize("rule", RULES)
def test_rules_learn_the_same_by_graphs(tmp_path: Path, rule: str) -> None:
    on_and_off(tmp_path, *GAME, *RULES[rule], *ON_GPU)


@gpu
@needs_gpu
@pytest.mark.parametrize("fit", FITS)
def test_networks_fit_the_same_by_graphs(tmp_path: Path, fit: str) -> None:
    length = ("algo=supervised", "total_gradient_steps=60", "eval_every=20", "data.updates=7")
    on_and_off(tmp_path, *length, *FITS[fit], *ON_GPU)


@gpu
@needs_gpu
def test_a_run_by_graphs_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (*GAME, *RULES["rainbow"], *ON_GPU, "trainer.cuda_graph=true", "schedule=cosine", "schedule.steps=100")
    train(tmp_path / "whole", *options)
    train_stopped(monkeypatch, tmp_path / "stopped", 400, *options)
    assert (tmp_path / "stopped" / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()
    for name, value in checkpoint(tmp_path / "stopped")["state_dict"].items():
        assert torch.equal(value, checkpoint(tmp_path / "whole")["state_dict"][name]), name
    group = checkpoint(tmp_path / "whole")["optimizer_states"][0]["param_groups"][0]
    assert isinstance(group["lr"], float) and not group["capturable"]


@gpu
@needs_gpu
@pytest.mark.parametrize("graph", ["true", "false"])
def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(tmp_path: Path, graph: str) -> None:
    options = (*GAME, "algo=dqn", "optimizer=sgd", "optimizer.lr=1e30", *ON_GPU, f"trainer.cuda_graph={graph}")
    with pytest.raises(TrainingError, match=r"near gradient step \d+: "):
        train(tmp_path, *options)
    assert not any((tmp_path / "checkpoints").glob("*.ckpt"))
    recorded = rows(tmp_path / "metrics.csv") if (tmp_path / "metrics.csv").exists() else []
    assert not any(row.get("train/loss") in ("nan", "inf") for row in recorded)


@gpu
@needs_gpu
def test_the_time_of_a_gpu_is_told(tmp_path: Path) -> None:
    train(tmp_path, *GAME, "algo=dqn", *ON_GPU)
    for row in rows(tmp_path / "timing.csv"):
        assert 0 <= float(row["time/gpu_idle"]) <= 1 and 0 <= float(row["time/transfer"]) <= 1


@gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "16-mixed"])
def test_every_precision_learns(tmp_path: Path, precision: str) -> None:
    fit = ("algo=supervised", "total_gradient_steps=60", "eval_every=20", "algo.gradient_clip=1", "data.updates=5")
    train(tmp_path, *fit, "trainer=gpu", f"trainer.precision={precision}", "callbacks.recorder.every=10")
    losses = [float(row["train/loss"]) for row in rows(tmp_path / "metrics.csv") if row.get("train/loss")]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("strategy=ddp",), "strategy=DataParallel: CUDA graphs support one process only: use strategy=auto"),
        (("trainer.devices=2",), "strategy=ddp: CUDA graphs support one process only"),
        (("trainer.precision=16-mixed",), "trainer.precision=16-mixed: gradient scaling cannot be captured"),
        (("debug.detect_anomaly=true",), "debug.detect_anomaly=true: cannot inspect the steps of a CUDA graph"),
        (("algo=ppo",), "algo=PPO: its gradient steps vary in shape"),
        (("algo=double_q_learning",), "algo=DoubleQLearning: its gradient steps vary in shape"),
        (("optimizer.fused=false",), "optimizer=Adam: cannot be captured in a CUDA graph: use rmsprop, or adam"),
        (("optimizer=adagrad",), "optimizer=Adagrad: cannot be captured in a CUDA graph"),
        (("algo=supervised", "total_gradient_steps=9", "optimizer=lbfgs"), "optimizer=LBFGS: cannot be captured"),
    ],
)
def test_what_cannot_be_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError) as caught:
        configuration(tmp_path, "trainer=gpu", "trainer.cuda_graph=true", *options)
    assert str(caught.value).startswith(message)


def test_without_a_gpu_there_are_no_graphs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration(tmp_path, "trainer.cuda_graph=true")
    assert str(caught.value) == "trainer.cuda_graph=true: needs trainer=gpu (trainer.accelerator is cpu)"


class Repeated:
    """Stands for a CUDA graph: capturing leaves everything as it was, replaying computes into the same places."""

    def __init__(self, rule: Any, slot: Slot):
        self.rule, self.slot, self.replays = rule, slot, 0

    def replay(self) -> None:
        self.replays += 1
        loss, metrics = self.rule.learn_from(self.slot.batch)
        self.slot.result[0].copy_(loss)  # type: ignore[index]
        for name, value in metrics.items():
            self.slot.result[1][name].copy_(value)  # type: ignore[index]


class Imitated(CapturedStep):
    """Captured steps on a machine without a GPU."""

    def _beside(self, call: Any) -> Any:
        return call()

    def forward(self, function: Any, x: torch.Tensor, mode: Any = None) -> Any:
        return function(x)

    def _capture(self, rule: Any, slot: Slot, batch: TensorDict) -> None:
        slot.batch = batch.apply(torch.empty_like)
        loss, metrics = rule.loss(batch)
        slot.result = loss.detach().clone(), {name: torch.zeros_like(value) for name, value in metrics.items()}
        slot.graph = Repeated(rule, slot)


@pytest.mark.parametrize("options", [("algo=dqn", "algo.target_every=3", "data.priority_exponent=0.6")])
def test_the_count_and_the_priorities_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    train(tmp_path / "off", *GAME, *options)
    made: list[Imitated] = []

    def start(self: Algorithm) -> None:
        begin(self)
        made.append(Imitated())
        self.captured = made[-1]

    begin = Algorithm.on_train_start
    monkeypatch.setattr(Algorithm, "on_train_start", start)
    clear = CapturedStep.clear
    kept: list[Any] = []
    monkeypatch.setattr(CapturedStep, "clear", lambda self: (kept.extend(self._slots.values()), clear(self)))
    train(tmp_path / "on", *GAME, *options)
    assert rows(tmp_path / "on" / "metrics.csv") == rows(tmp_path / "off" / "metrics.csv")
    theirs = checkpoint(tmp_path / "off")["state_dict"]
    for name, value in checkpoint(tmp_path / "on")["state_dict"].items():
        assert torch.equal(value, theirs[name]), name
    (slot,) = kept
    assert slot.made == WARMUP and slot.graph.replays == checkpoint(tmp_path / "on")["gradient_steps"] - WARMUP
    assert not made[0]._slots


def test_batches_of_too_many_shapes_are_learned_from_without_graphs(tmp_path: Path) -> None:
    run = Run(directory=tmp_path, seed=0, total_steps=1, eval_every=1, eval_episodes=0)
    rule = build_parts(configuration(tmp_path, "algo=supervised", "optimizer=sgd"), run)[0]
    assert isinstance(rule, Supervised)
    other = copy.deepcopy(rule)
    for each in (rule, other):
        optimizer = each.configure_optimizers()
        each.optimizers = lambda made=optimizer: made  # type: ignore[method-assign]
        each.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
    rule.captured = Imitated()
    for size in [*range(2, 14), *range(2, 14)] * 2 + [2, 2, 2]:
        batch = TensorDict({"input": torch.rand(size, 1, 8, 8), "target": torch.arange(size) % 10}, batch_size=[size])
        assert torch.equal(rule.update(batch), other.update(batch.clone()))
    assert rule.gradient_steps == other.gradient_steps
    assert len(rule.captured._slots) == 8
    assert [s.graph.replays for s in rule.captured._slots.values() if s.graph] == [4, *[1] * 7]
