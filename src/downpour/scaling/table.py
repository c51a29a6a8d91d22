"""The results of a scaling measurement as a Markdown table and as CSV."""

import csv
import io
import math
import statistics
from collections.abc import Callable, Sequence

from downpour.analysis.text import aligned, spaced
from downpour.scaling import variants
from downpour.scaling.plan import ALONE
from downpour.scaling.results import Row

MOST_SHOWN = 5  # values of the staleness in the text: the most frequent ones

COLUMNS: dict[str, Callable[[Row], str]] = {
    "strategy": lambda r: variants.label(r.case.strategy),
    "model": lambda r: r.case.size,
    "weights": lambda r: spaced(r.weights),
    "N": lambda r: str(r.case.devices),
    "batch/process": lambda r: str(r.case.batch) if r.case.batch else "-",
    "samples/s": lambda r: spaced(r.rate),
    "T_N (s)": lambda r: _number(r.seconds, 1),
    "T / T_N": lambda r: _number(r.efficiency * r.case.devices, 2),
    "E_N": lambda r: _range(r.efficiencies),
    "step (ms)": lambda r: _number(1000 * r.step, 2),
    "bytes/step": lambda r: spaced(r.bytes),
    "communicating": lambda r: _number(r.communicating, 2),
    "not computing": lambda r: _number(r.waiting, 2),
    "staleness": lambda r: _number(r.mean_staleness, 2),
    "steps to accuracy": lambda r: _steps(r.steps_to),
    "samples to accuracy": lambda r: spaced(r.samples_to),
    "seconds to accuracy": lambda r: _number(r.seconds_to, 2),
    "reached": lambda r: f"{len(r.steps_to)} of {r.seeds}" if r.seeds else "-",
}


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, without empty columns; then the runs that failed."""
    measured = [row for row in rows if row.rates]
    cells = {name: [write(row) for row in measured] for name, write in COLUMNS.items()}
    shown = {name: column for name, column in cells.items() if any(cell not in ("-", "", "nan") for cell in column)}
    text = aligned([list(shown), *zip(*shown.values(), strict=True)])
    failed = [f"- {row.case.name}: {row.failure}{_after(row)}" for row in rows if row.failure]
    return "\n".join([*text, *(["", "Failed:", "", *failed] if failed else [])])


def comma_separated(rows: Sequence[Row]) -> str:
    """The rows as CSV, with 8 digits; spaces separate the efficiencies, the steps of seeds, and staleness:updates."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = "strategy model weights devices batch samples rate seconds efficiency efficiencies step bytes communicating"
    rest = "not_computing staleness staleness_counts steps_to_accuracy seconds_to_accuracy seeds failure"
    writer.writerow([*head.split(), *rest.split()])
    for r in rows:
        case = [variants.label(r.case.strategy), r.case.size, r.weights, r.case.devices, r.case.batch, r.samples]
        speed = map(_cell, (r.rate, r.seconds if r.rates else math.nan, r.efficiency))
        turns = " ".join(map(_cell, r.efficiencies))
        step = map(_cell, (r.step, r.bytes, r.communicating, r.waiting, r.mean_staleness))
        counts = " ".join(f"{stale}:{updates}" for stale, updates in r.staleness.items())
        reached = [" ".join(map(str, r.steps_to)), _cell(r.seconds_to), r.seeds, r.failure]
        writer.writerow([*case, *speed, turns, *step, counts, *reached])
    return out.getvalue()


def legend(scaling: str, turns: int) -> str:
    """The explanation of the table."""
    divided = "each process keeps its batch" if scaling == "weak" else "the batch is divided between the processes"
    lines = [
        f"{scaling.capitalize()} scaling: {divided}; the number of samples is the same. E_N = T / (N T_N),",
        f"the median of {turns} repetition(s) (min to max), each against {ALONE} of the same repetition. Start-up",
        "and evaluation are excluded, and servers are not counted in N. Not computing: fraction of a step beyond that",
        "of one process with the same batch (communication, waiting, shared cores). Communicating: fraction of time",
        "that rank 0 waited for communication, if the strategy measures it. Bytes/step: the minimum of a collective",
        "(2 n (N - 1) / N for an all-reduce of n bytes); with servers, everything that rank 0 sends and receives.",
    ]
    return "\n".join(lines)


def staleness(rows: Sequence[Row]) -> str:
    """The staleness of each asynchronous row, and its cost; an empty string if there is none.

    The cost is the number of updates to the target accuracy, relative to one process with the same batch.
    """
    lines = []
    for r in rows:
        if not r.staleness:
            continue
        total = sum(r.staleness.values())
        frequent = sorted(sorted(r.staleness, key=lambda s: -r.staleness[s])[:MOST_SHOWN])
        parts = ", ".join(f"{s}: {100 * r.staleness[s] / total:.1f} %" for s in frequent)
        line = f"- {r.case.name}: staleness {r.mean_staleness:.2f} on average, {max(r.staleness)} at most ({parts})"
        alone = next(one for one in rows if one.case.strategy == ALONE and one.case.size == r.case.size)
        if r.steps_to and alone.steps_to and r.case.batch == alone.case.batch:
            updates, one = statistics.median(r.steps_to), statistics.median(alone.steps_to)
            line += f"; {spaced(updates)} updates to the accuracy, {updates / one:.2f} times those of one process"
        lines.append(line)
    return "\n".join(["Staleness:", "", *lines]) if lines else ""


def _after(row: Row) -> str:
    return f" (after {len(row.rates)} turn(s))" if row.rates else ""


def _steps(values: Sequence[int]) -> str:
    if not values:
        return "-"
    middle = spaced(statistics.median(values))
    return middle if len(values) < 2 else f"{middle} ({spaced(min(values))} to {spaced(max(values))})"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def _cell(value: float) -> str:
    return f"{value:.8g}" if math.isfinite(value) else ""


def _range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    middle = f"{statistics.median(values):.2f}"
    return middle if len(values) < 2 else f"{middle} ({min(values):.2f} to {max(values):.2f})"
