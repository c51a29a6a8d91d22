"""Evaluates a finished run on its test split: metrics and predictive uncertainty."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from scipy.stats import spearmanr
from torch import Tensor

from downpour import dropout
from downpour.analysis.text import aligned, spaced
from downpour.building import build_group
from downpour.config import ConfigError
from downpour.evaluation_settings import Settings, load
from downpour.run import Run

Mode = Literal["scaled", "monte_carlo"]


def data_of(config: Mapping[str, Any], directory: Path) -> Any:
    """The data module of a run, with the same rows in each split."""
    return build_group(config, "data", run=Run(directory, config["seed"], 0, 1, 0), environment=None)


def measure(settings: Settings, directory: Path, config: Mapping[str, Any], out: Path) -> tuple[dict[str, Any], str]:
    """Ask for the test split: (what goes into eval.json, what to print)."""
    if settings.video:
        raise ConfigError("video", settings.video, "a run on a data set has no environment to record")
    data = data_of(config, directory)
    algorithm, path, step = load(directory, config, data.spaces, settings)
    seed = config["seed"] if settings.seed is None else settings.seed
    result: dict[str, Any] = {
        "checkpoint": path.name,
        "step": step,
        "algorithm": type(algorithm).__name__,
        "dropout": settings.dropout,
        "samples": settings.samples if settings.dropout == "monte_carlo" else None,
        "seed": seed,
        "rows": len(data.rows["test"]),
        **judge(algorithm, data, settings.dropout, settings.samples, seed),
    }
    how = {None: "", "scaled": ", dropout scaled", "monte_carlo": f", mean over {settings.samples} dropout masks"}
    head = f"{result['algorithm']} on {result['rows']} test rows, {path.name} of step {spaced(step)}"
    lines = [head + how[settings.dropout], "", *aligned(table(result)), ""]
    return result, "\n".join(lines)


def judge(algorithm: Any, data: Any, mode: Mode | None, samples: int, seed: int) -> dict[str, Any]:
    """Metrics of the test split, and means over it of the predictive uncertainty.

    Args:
        mode: `scaled` leaves all units in (the weights are scaled by the probability of being kept); `monte_carlo`
            takes the mean over `samples` masks; None is `scaled` where the algorithm predicts anything.
        seed: of the masks.

    Raises:
        ConfigError: the algorithm predicts nothing, or its network drops nothing.
    """
    if not algorithm.single_pass:
        if mode is not None:
            raise ConfigError("dropout", mode, f"{type(algorithm).__name__} predicts no targets; remove this setting")
        return {"metrics": algorithm.evaluate(_on(algorithm, data))}
    if mode == "monte_carlo" and not dropout.drops(algorithm.network):
        raise ConfigError("dropout", mode, "the network was trained without dropout (model.dropout=0)")
    is_class = algorithm.classes is not None
    outputs, targets, doubts = [], [], []
    for number, batch in enumerate(_on(algorithm, data)):
        x = batch["input"]
        targets.append(batch["target"])
        if mode != "monte_carlo":
            outputs.append(algorithm.predict([batch])[0])
            continue
        draw = dropout.monte_carlo if is_class else dropout.monte_carlo_numbers
        mean, doubt = draw(algorithm.eval().network, x, samples, seed + number)
        outputs.append(mean)
        doubts.append(doubt)
    output, target = torch.cat(outputs), torch.cat(targets)
    metrics, in_units = algorithm.judge(output, target), partial(algorithm.in_units, differences=True)
    uncertainty: dict[str, Tensor] = {"predictive_entropy": dropout.entropy(output.softmax(-1))} if is_class else {}
    if doubts:
        doubt = torch.cat(doubts)
        uncertainty |= {"mutual_information": doubt} if is_class else {"deviation": in_units(doubt)}
    wrong = (output.argmax(-1) != target).float() if is_class else in_units(output - target).abs()
    return {"metrics": metrics, "uncertainty": {name: _against(u, wrong) for name, u in uncertainty.items()}}


def _on(algorithm: Any, data: Any) -> Any:
    return (batch.to(algorithm.device) for batch in data.split("test"))


def _against(uncertainty: Tensor, error: Tensor) -> dict[str, float | None]:
    """Its mean, and whether it is larger where the error is (Spearman's rank correlation; None if nothing varies)."""
    flat, wrong = uncertainty.flatten().cpu(), error.flatten().cpu()
    varies = bool(flat.min() < flat.max()) and bool(wrong.min() < wrong.max())
    correlation = float(spearmanr(flat, wrong).statistic) if varies else None
    return {"mean": float(flat.mean()), "correlation_with_error": correlation}


def table(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The rows that a person reads."""
    rows: list[tuple[str, ...]] = [("", "test split", "rank correlation with the error")]
    rows += [(name, f"{value:.4f}", "") for name, value in result["metrics"].items()]
    for name, found in result.get("uncertainty", {}).items():
        correlation = found["correlation_with_error"]
        rows.append((name, f"{found['mean']:.4f}", "-" if correlation is None else f"{correlation:.2f}"))
    return rows
