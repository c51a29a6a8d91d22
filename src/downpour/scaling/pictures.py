"""The figures of a scaling measurement."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from downpour.analysis.drawing import GREY, INK, dress, figure_of, save, style_of
from downpour.analysis.text import spaced
from downpour.scaling import variants
from downpour.scaling.model import Model, curves
from downpour.scaling.plan import ALONE
from downpour.scaling.published import POINTS
from downpour.scaling.results import Row


def by_strategy(rows: Sequence[Row], size: str) -> dict[str, list[Row]]:
    """Strategy -> its measured rows of one size, by number of processes, after the row of one process."""
    of_size = [r for r in rows if r.case.size == size and r.rates]
    (one, *_) = [r for r in of_size if r.case.strategy == ALONE]
    names = dict.fromkeys(r.case.strategy for r in of_size if r.case.strategy != ALONE)
    chosen = {name: [r for r in of_size if r.case.strategy == name] for name in names}
    return {name: [one, *sorted(members, key=lambda r: r.case.devices)] for name, members in chosen.items()}


def efficiency(rows: Sequence[Row], model: Model | None, scaling: str, servers: int, most: int, path: Path) -> Path:
    """Draw E_N of the first size, measured and modelled; beside it the model's curves to `most` ranks, and published
    points.
    """
    size = rows[0].case.size
    groups = by_strategy(rows, size)
    figure = figure_of(10.0, 4.6)
    measured, predicted = figure.subplots(1, 2, sharey=True)
    for index, (name, members) in enumerate(groups.items()):
        color, _ = style_of(index)
        x, y = [r.case.devices for r in members], [r.efficiency for r in members]
        low = [r.efficiency - min(r.efficiencies) for r in members]
        high = [max(r.efficiencies) - r.efficiency for r in members]
        label = f"{variants.label(name)}, measured"
        measured.errorbar(x, y, [low, high], color=color, marker="o", capsize=3, linewidth=1.8, label=label)
    if model is not None:
        most_here = max(r.case.devices for r in rows)
        base = next(r for r in rows if r.case.size == size)
        x = list(range(1, most_here + 1))
        share = (lambda n: base.case.batch / n) if scaling == "strong" else (lambda n: base.case.batch)
        y = [base.step * share(n) / base.case.batch / model.step(size, base.weights, share(n), n) for n in x]
        measured.plot(x, y, color=INK, linestyle=":", label="all-reduce in a ring, model of this machine")
        ranks, found = curves(model, base, scaling, servers, most)
        for index, (name, values) in enumerate(found.items(), start=2):
            color, stroke = style_of(index)
            predicted.plot(ranks, values, color=color, linestyle=stroke, label=f"{name}, model")
        for index, point in enumerate(POINTS):
            predicted.plot(point.ranks, point.efficiency, color=GREY, marker="x", linestyle="")
            place = (point.ranks, point.efficiency)
            predicted.annotate(point.label, place, (4, 4 if index % 2 else -9), textcoords="offset points", fontsize=7)
    _label_axes(measured, "E_N = T / (N T_N)", f"{scaling} scaling, this machine")
    _label_axes(predicted, "", "the model, a machine a rank; x: published")
    measured.set_ylim(0, max(1.1, 1.05 * max(r.efficiency for r in rows if r.rates)))
    dress(figure)
    return save(figure, path)


def speed_up(rows: Sequence[Row], path: Path) -> Path:
    """Draw T / T_N against N, one curve per model size, one panel per strategy: Dean et al. 2012, Figure 3."""
    sizes = list(dict.fromkeys(r.case.size for r in rows))
    strategies = list(dict.fromkeys(r.case.strategy for r in rows if r.case.strategy != ALONE))
    figure = figure_of(max(5.0, 4.0 * len(strategies)), 4.4)
    for place, (axes, strategy) in enumerate(
        zip(figure.subplots(1, len(strategies), squeeze=False, sharey=True)[0], strategies, strict=True)
    ):
        for index, size in enumerate(sizes):
            members = by_strategy(rows, size).get(strategy, [])
            color, stroke = style_of(index)
            label = f"{size or 'the model'} ({spaced(members[0].weights)} weights)" if members else None
            x = [r.case.devices for r in members]
            axes.plot(x, [r.case.devices * r.efficiency for r in members], stroke, color=color, marker="o", label=label)
        most = max(r.case.devices for r in rows)
        axes.plot([1, most], [1, most], color=GREY, linewidth=0.8, linestyle=":", label="ideal")
        _label_axes(axes, "" if place else "speed-up T / T_N", variants.label(strategy))
    dress(figure)
    return save(figure, path)


def to_accuracy(rows: Sequence[Row], wanted: float, path: Path) -> Path:
    """Draw the time, and the samples, to a fixed accuracy against N: Dean et al. 2012, Figure 5."""
    figure = figure_of(9.0, 4.4)
    left, right = figure.subplots(1, 2)
    for index, (strategy, members) in enumerate(by_strategy(rows, rows[0].case.size).items()):
        color, stroke = style_of(index)
        reached = [r for r in members if r.steps_to]
        x = [r.case.devices for r in reached]
        left.plot(x, [r.seconds_to for r in reached], stroke, color=color, marker="o", label=variants.label(strategy))
        right.plot(x, [r.samples_to for r in reached], stroke, color=color, marker="o", label=variants.label(strategy))
    for axes, name in ((left, "seconds"), (right, "samples")):
        _label_axes(axes, f"{name} to {wanted:g}", "")
        axes.set_ylim(bottom=0)
    dress(figure)
    return save(figure, path)


def staleness(rows: Sequence[Row], path: Path) -> Path:
    """Draw the distribution of the staleness: updates between a worker's fetch and the arrival of its gradient."""
    measured = [r for r in rows if r.staleness]
    figure = figure_of(6.0, 4.2)
    axes = figure.subplots()
    for index, r in enumerate(measured):
        color, stroke = style_of(index)
        total = sum(r.staleness.values())
        label = f"{variants.label(r.case.strategy)}, {r.case.devices} processes {r.case.size}"
        x = sorted(r.staleness)
        axes.plot(x, [r.staleness[s] / total for s in x], stroke, color=color, marker="o", label=label)
    axes.set_xlabel("staleness (updates by others)")
    axes.set_ylabel("part of the updates")
    dress(figure)
    return save(figure, path)


def _label_axes(axes: Axes, ylabel: str, title: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlabel("processes N")
    axes.set_ylabel(ylabel)
    axes.set_title(title, parse_math=False)
