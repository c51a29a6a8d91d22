"""The figure of a parameter study: final results against a number that was swept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from downpour.analysis.configurations import Configuration
from downpour.analysis.drawing import dress, figure_of, style_of
from downpour.analysis.metrics import spoken
from downpour.analysis.runs import natural
from downpour.analysis.statistics import Interval
from downpour.analysis.table import row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 3  # values of a number for a curve


def swept(configurations: Sequence[Configuration]) -> tuple[str, str | None] | None:
    """(key of the number that was swept, key of the other swept setting or None); None if there is no such number.

    At most two settings may differ, and one of them must have three or more numbers as values; of two such settings,
    the one with more values is taken.
    """
    values: dict[str, set[str]] = {}
    for each in configurations:
        for key, value in each.settings.items():
            values.setdefault(key, set()).add(value)
    differing = {key: found for key, found in values.items() if len(found) > 1}
    if "trainer" in differing:
        differing.pop("trainer.devices", None)  # follows from it
    numbers = [key for key, found in differing.items() if len(found) >= FEWEST and all(map(_is_number, found))]
    if not numbers or len(differing) > 2:
        return None
    number = max(numbers, key=lambda key: len(differing[key]))
    return number, next((key for key in differing if key != number), None)


def sensitivity(configurations: Sequence[Configuration], metric: str | None = None) -> Figure:
    """One curve per value of the other setting: the mean over seeds of the last value, with its bootstrap interval.

    `swept(configurations)` must not be None.
    """
    found = swept(configurations)
    assert found is not None
    number, other = found
    figure = figure_of(7.0, 4.4)
    axes = figure.subplots()
    curves: dict[str, list[tuple[float, Interval]]] = {}
    compared = ""
    for each in sorted(configurations, key=lambda c: natural(c.settings.get(other or "", ""))):
        r = row(each, metric)
        compared = compared or r.metric
        if r.metric == compared and r.final.n:
            curves.setdefault(each.settings.get(other or "", ""), []).append((float(each.settings[number]), r.final))
    for index, (value, points) in enumerate(curves.items()):
        points.sort(key=lambda point: point[0])
        x = [at for at, _ in points]
        color, stroke = style_of(index)
        label = f"{other.rpartition('.')[2]}={value}" if other else None
        means = [final.mean for _, final in points]
        axes.plot(x, means, color=color, linestyle=stroke, marker="o", markersize=4, linewidth=2.0, label=label)
        low, high = [final.low for _, final in points], [final.high for _, final in points]  # NaN for one seed
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    every = sorted({point[0] for points in curves.values() for point in points})
    if every and every[0] > 0 and every[-1] >= 8 * every[0]:
        axes.set_xscale("log")
        axes.set_xticks(every)
        axes.minorticks_off()
    axes.set_xlabel(number.rpartition(".")[2].replace("_", " "))
    axes.set_ylabel(spoken(compared))
    dress(figure, legend_title="last value: mean over seeds and its 95 % bootstrap interval")
    return figure


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
