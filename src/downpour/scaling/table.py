"""A scaling measurement as a table: for people, and as CSV."""

import csv
import io
import math
import statistics
from collections.abc import Callable, Sequence

from downpour.analysis.table import spaced
from downpour.scaling.plan import ALONE
from downpour.scaling.results import Row

COLUMNS: dict[str, Callable[[Row], str]] = {
    "strategy": lambda r: r.case.strategy,
    "model": lambda r: r.case.size,
    "weights": lambda r: spaced(r.weights),
    "N": lambda r: str(r.case.devices),
    "batch of each": lambda r: str(r.case.batch) if r.case.batch else "-",
    "samples/s": lambda r: spaced(r.rate),
    "T_N (s)": lambda r: _number(r.seconds, 1),
    "T / T_N": lambda r: _number(r.efficiency * r.case.devices, 2),
    "E_N": lambda r: _range(r.efficiencies),
    "step (ms)": lambda r: _number(1000 * r.step, 2),
    "bytes a step": lambda r: spaced(r.bytes),
    "communicating": lambda r: _number(r.communicating, 2),
    "not computing": lambda r: _number(r.waiting, 2),
    "staleness": lambda r: _number(r.mean_staleness, 2),
    "steps to accuracy": lambda r: spaced(statistics.median(r.steps_to)) if r.steps_to else "-",
    "samples to accuracy": lambda r: spaced(r.samples_to),
    "seconds to accuracy": lambda r: _number(r.seconds_to, 2),
    "reached it": lambda r: f"{len(r.steps_to)} of {r.seeds}" if r.seeds else "-",
}


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table; columns in which no row has anything are left out."""
    measured = [row for row in rows if row.rates]
    cells = {name: [write(row) for row in measured] for name, write in COLUMNS.items()}
    shown = {name: column for name, column in cells.items() if any(cell not in ("-", "", "nan") for cell in column)}
    widths = [max(map(len, (name, *column))) for name, column in shown.items()]
    lines = [list(shown), *map(list, zip(*shown.values(), strict=True))]
    text = [f"| {' | '.join(cell.rjust(w) for cell, w in zip(line, widths, strict=True))} |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|")
    failed = [f"- {row.case.name}: {row.failure}" for row in rows if row.failure]
    return "\n".join([*text, *(["", "Not run:", "", *failed] if failed else [])])


def comma_separated(rows: Sequence[Row]) -> str:
    """The rows at full precision; a turn's rates, and the steps of seeds, have spaces between."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = "strategy model weights devices batch samples rate seconds efficiency efficiencies step bytes communicating"
    rest = "not_computing staleness steps_to_accuracy seconds_to_accuracy seeds failure"
    writer.writerow([*head.split(), *rest.split()])
    for r in rows:
        case = [r.case.strategy, r.case.size, r.weights, r.case.devices, r.case.batch, r.samples]
        speed = map(_cell, (r.rate, r.seconds if r.rates else math.nan, r.efficiency))
        turns = " ".join(map(_cell, r.efficiencies))
        step = map(_cell, (r.step, r.bytes, r.communicating, r.waiting, r.mean_staleness))
        reached = [" ".join(map(str, r.steps_to)), _cell(r.seconds_to), r.seeds, r.failure]
        writer.writerow([*case, *speed, turns, *step, *reached])
    return out.getvalue()


def legend(scaling: str, turns: int) -> str:
    """What the numbers of the table are."""
    divided = "each process keeps its batch" if scaling == "weak" else "the batch is divided between the processes"
    lines = [
        f"{scaling.capitalize()} scaling: {divided}; the samples are the same in all. E_N = T / (N T_N),",
        f"the median of {turns} turn(s) (least to greatest), each against {ALONE} of the same turn; starting and",
        "evaluating are in no time, and servers are not counted in N. Not computing: the part of a step beyond that of",
        "one process with the same batch (communicating, waiting, sharing cores). Bytes are those each process sends.",
    ]
    return "\n".join(lines)


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def _cell(value: float) -> str:
    return f"{value:.8g}" if math.isfinite(value) else ""


def _range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    middle = f"{statistics.median(values):.2f}"
    return middle if len(values) < 2 else f"{middle} ({min(values):.2f} to {max(values):.2f})"
