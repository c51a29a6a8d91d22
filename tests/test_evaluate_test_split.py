"""`python src/eval.py` on runs that have a data set: metrics of the test split, and how sure the network is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.supervised import train

from downpour.evaluate import main

SETTINGS = Path(__file__).parents[1] / "conf/eval.yaml"
SHORT = ("total_gradient_steps=150", "eval_every=50", "model.hidden=[32]", "optimizer.lr=3e-3")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classes")
    train(path, "algo=supervised", *SHORT, "model.dropout=0.4")
    return path


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("numbers")
    train(path, "algo=supervised", "data=regression", *SHORT, "model.dropout=0.2", "algo.loss=huber")
    return path


def evaluate(*arguments: str, out: Path) -> dict[str, Any]:
    assert main([*arguments, f"out={out}"], SETTINGS) == 0
    return json.loads((out / "eval.json").read_text())


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_the_scaled_network_has_the_metrics_of_the_runs_end(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Path = request.getfixturevalue(kind)
    result = evaluate(f"run={run}", "checkpoint=last", "dropout=scaled", out=tmp_path)
    assert result["metrics"] == pytest.approx(
        {name.removeprefix("test/"): value for name, value in summary(run).items() if name.startswith("test/")},
        rel=1e-6,
    )
    assert result["rows"] == {"classes": 359, "numbers": 400}[kind]
    assert evaluate(f"run={run}", "checkpoint=last", out=tmp_path)["metrics"] == result["metrics"]


def masked(run: Path, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [samples, rows, classes] under masks drawn here, and the labels: the network multiplied by hand."""
    from downpour import directory as directories
    from downpour.evaluate_test_split import data_of

    weights = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    first, top = ((weights[f"network.layers.{i}.weight"], weights[f"network.layers.{i}.bias"]) for i in (1, 4))
    (batch,) = data_of(directories.read_config(run, "run"), run).split("test")
    hidden = (batch["input"].flatten(1) @ first[0].T + first[1]).relu()
    keep = torch.rand(samples, *hidden.shape, generator=torch.Generator().manual_seed(5)) < 0.6
    logits = (hidden * keep / 0.6) @ top[0].T + top[1]
    return logits.softmax(-1).double().numpy(), batch["target"].numpy()


def test_monte_carlo_reports_entropy_and_information(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (f"run={classes}", "checkpoint=last", "dropout=monte_carlo")
    result = evaluate(*arguments, "samples=300", "seed=3", out=tmp_path)
    p, labels = masked(classes, 300)
    mean = p.mean(0)
    entropy, own = -(mean * np.log(mean)).sum(-1), -(p * np.log(p)).sum(-1).mean(0)
    found = result["uncertainty"]
    assert found["predictive_entropy"]["mean"] == pytest.approx(entropy.mean(), rel=0.03)
    assert found["mutual_information"]["mean"] == pytest.approx((entropy - own).mean(), rel=0.05)
    assert found["predictive_entropy"]["correlation_with_error"] > 0.1
    likelihood = -np.log(mean[np.arange(len(labels)), labels]).mean()
    assert result["metrics"]["loss"] == pytest.approx(likelihood, rel=0.05)
    assert result["metrics"]["accuracy"] == pytest.approx((mean.argmax(-1) == labels).mean(), abs=0.015)
    again = evaluate(*arguments, "samples=300", "seed=3", out=tmp_path)
    assert again == result and result["samples"] == 300
    shown = capsys.readouterr().out
    assert "mean over 300 dropout masks" in shown and "| mutual_information |" in shown


def test_monte_carlo_of_numbers_has_a_deviation(numbers: Path, tmp_path: Path) -> None:
    arguments = (f"run={numbers}", "dropout=monte_carlo", "samples=50")
    result = evaluate(*arguments, out=tmp_path)
    assert result["algorithm"] == "Supervised" and set(result["metrics"]) == {"loss", "rmse", "mae", "r2"}
    assert 0.05 < result["uncertainty"]["deviation"]["mean"] < 5  # in units of the target, whose own is about 5
    assert evaluate(*arguments, "seed=9", out=tmp_path)["metrics"] != result["metrics"]


def test_what_does_not_apply_is_refused(classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, gan = tmp_path / "plain", tmp_path / "gan"
    train(plain, "algo=supervised", *SHORT, "data=two_moons")
    train(gan, "algo=gan", *SHORT)
    capsys.readouterr()
    refusals = {
        (f"run={plain}", "dropout=monte_carlo"): "dropout=monte_carlo: the network was trained without dropout",
        (f"run={gan}", "dropout=scaled"): "dropout=scaled: GAN predicts no targets",
        (f"run={classes}", "video=true"): "video=true: a run on a data set has no environment to record",
        (f"run={classes}", "dropout=exact"): "dropout=exact: must be 'scaled' or 'monte_carlo'",
        (f"run={classes}", "samples=0"): "samples=0: must be greater than or equal to 1",
    }
    for arguments, said in refusals.items():
        assert main(arguments, SETTINGS) == 2
        shown = capsys.readouterr()
        assert shown.out == "" and said in shown.err and shown.err.count("\n") == 1
    assert set(evaluate(f"run={gan}", out=tmp_path)["metrics"]) == {"energy_distance", "loss", "discriminator_accuracy"}
