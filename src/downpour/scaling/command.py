"""The command line of scaling measurements: its own settings, and those of `train.py` for the runs."""

import csv
import io
import math
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from downpour import composition_errors
from downpour.config import ConfigError, PositiveFloat, PositiveInt, check_arguments
from downpour.directory import write_text
from downpour.settings import read_settings, show_help

SUMMARY = """
Measure how a run scales, (1): E_N = T / (N T_N), with T the time of one process and T_N that of N for the same number
of samples. Every number of processes is run several times, in turn. The results are compared with a cost model that is
fitted to measurements on this machine. Settings of train.py define the run.

  python src/scale.py algo=supervised strategy=ddp,fsdp2 devices=1,2,4 model.hidden=[512,512]
  python src/scale.py algo=supervised scaling=strong data.batch_size=512 accuracy=0.95
  python src/scale.py algo=supervised 'strategy=ddp;ddp strategy.compress=bf16;downpour strategy.servers=2'

Settings, with their defaults:

"""


class TimeIsUp(Exception):
    """`minutes` are over."""


@dataclass(kw_only=True)
class Settings:
    """What conf/scale.yaml says, typed."""

    strategy: str
    devices: str
    scaling: Literal["weak", "strong"]
    turns: PositiveInt
    sizes: str | None
    accuracy: PositiveFloat | None
    seeds: PositiveInt
    minutes: PositiveFloat | None
    servers: PositiveInt
    predict: PositiveInt
    out: str | None


def main(typed: Sequence[str], defaults: Path) -> int:
    """Run the command; returns its exit code: 0; 1 if nothing could be measured; 2, with one line on stderr, for
    invalid input.

    Args:
        typed: the arguments of the command.
        defaults: the YAML file with the settings of this command, their defaults and their meaning.
    """
    if show_help(typed, SUMMARY, defaults):
        return 0
    try:
        own = {line.partition(":")[0] for line in defaults.read_text().splitlines()}
        own_typed = [each for each in typed if each.partition("=")[0] in own]
        settings = Settings(**check_arguments(Settings, read_settings(own_typed, defaults, "strategy=ddp"), ""))
        return measure(settings, [each for each in typed if each not in own_typed], typed)
    except ConfigError as error:
        print(f"scale: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def measure(settings: Settings, overrides: Sequence[str], typed: Sequence[str]) -> int:
    """Make all runs, print the table, write the results; returns the exit code.

    Args:
        overrides: settings of `train.py`.
        typed: the whole command line, for the record.

    Raises:
        ConfigError: invalid settings, the first run failed, or the results cannot be written.
    """
    from downpour.scaling import plan, results, table, variants

    devices, sizes = _parse(settings)
    chosen, common = variants.read(settings.strategy, overrides)
    try:
        tasks = {size: plan.task(common, size) for size in sizes}
        cases = [
            case for size, task in tasks.items() for case in plan.cases(task, chosen, devices, size, settings.scaling)
        ]
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        composed = [*common, *(o for each in chosen for o in variants.arguments(each)), *" ".join(sizes).split()]
        why = composition_errors.explain(error, composed)
        raise ConfigError(message=f"{why} (neither a setting of scale.py nor one of train.py)") from None
    out = Path(settings.out or time.strftime("outputs/scale/%Y-%m-%d/%H-%M-%S")).expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("out", out, f"cannot be written ({error.strerror}); choose another") from None
    rows = {case: results.Row(case, samples=tasks[case.size].steps * tasks[case.size].batch) for case in cases}
    deadline = time.monotonic() + 60 * (settings.minutes or math.inf)
    try:
        _measure_speeds(settings, tasks, rows, deadline)
        if settings.accuracy is not None:
            _measure_accuracy(settings, tasks, rows, settings.accuracy, deadline)
    except (KeyboardInterrupt, TimeIsUp, OSError) as reason:  # report what has been measured by then
        _log(f"{str(reason) or 'interrupted'}: no more runs")
    with_base = {size for size, base in results.bases(rows.values()).items() if base.rates}
    measured = [row for row in rows.values() if row.case.size in with_base]
    if not any(row.rates for row in measured if row.case.strategy != plan.ALONE):
        why = next((row.failure for row in measured if row.failure), "stopped before a strategy had its turn")
        print(f"scale: nothing could be measured: {why}", file=sys.stderr)
        return 1
    results.compare(measured)
    parts = [table.markdown(list(rows.values())), table.legend(settings.scaling, settings.turns)]
    parts += [stale] if (stale := table.staleness(measured)) else []
    text = "\n\n".join(parts)
    print(text, flush=True)  # what follows takes time, and may fail
    try:
        _write(settings, typed, text, measured, out)
    except OSError as error:
        raise ConfigError("out", out, f"cannot be written ({error.strerror}); choose another") from None
    print(f"\nscale: {out}")
    return 0


def _write(settings: Settings, typed: Sequence[str], text: str, rows: Any, out: Path) -> None:
    """Write the table, then measure the machine and add the cost model and the figures."""
    from downpour.scaling import table

    text = f"`python src/scale.py {shlex.join(typed)}`\n\n{text}\n"
    write_text(out / "scale.csv", table.comma_separated(rows))
    write_text(out / "scale.md", text)
    if model := _draw(settings, rows, out):
        print(f"\n{model}")
        write_text(out / "scale.md", f"{text}\n{model}\n")


def _parse(settings: Settings) -> tuple[list[int], list[str]]:
    try:
        devices = sorted({int(count) for count in settings.devices.split(",")} - {1})
    except ValueError:
        advice = "must be numbers of processes separated by commas, such as 1,2,4"
        raise ConfigError("devices", settings.devices, advice) from None
    if not devices or devices[0] < 1:
        raise ConfigError("devices", settings.devices, "needs at least one number of processes above 1")
    return devices, [size.strip() for size in (settings.sizes or "").split(";")]


def _measure_speeds(settings: Settings, tasks: Any, rows: Any, deadline: float) -> None:
    """Measure the speed of every case in each turn."""
    from downpour.analysis.text import spaced
    from downpour.scaling import plan, results

    bases = results.bases(rows.values())
    for turn in range(settings.turns):
        for case, row in rows.items():
            if row.failure or bases[case.size].failure:
                continue
            with tempfile.TemporaryDirectory(prefix="downpour-") as scratch:
                directory = Path(scratch) / "run"
                row.failure = _run(settings, deadline, plan.arguments(tasks[case.size], case, directory))
                if row.failure:
                    _log(f"{case.name}: {row.failure}")
                    if not any(each.rates for each in rows.values()):
                        raise ConfigError(message=row.failure)
                    continue
                results.add(row, directory)
                if not row.weights:
                    row.weights = results.weights(directory) if case.strategy == plan.ALONE else 0
                if not row.samples:
                    row.samples = results.length(directory)
            _log(f"turn {turn + 1}/{settings.turns} {case.name}: {spaced(row.rates[-1])} samples/s")


def _measure_accuracy(settings: Settings, tasks: Any, rows: Any, wanted: float, deadline: float) -> None:
    """Train to a fixed accuracy: one process, and each strategy with each number of processes."""
    from downpour.scaling import plan, results

    first = next(iter(rows)).size
    cases = [case for case in rows if case.size == first and (case.strategy != plan.ALONE or case == next(iter(rows)))]
    cases = [case for case in cases if rows[case].rates and not rows[case].failure]
    if all(case.strategy == plan.ALONE for case in cases):
        return
    for case in cases:
        row = rows[case]
        for seed in range(settings.seeds):
            with tempfile.TemporaryDirectory(prefix="downpour-") as scratch:
                directory = Path(scratch) / "run"
                failure = _run(settings, deadline, plan.to_accuracy(tasks[first], case, seed, directory))
                step = None if failure else results.reached(directory, tasks[first], wanted)
            row.seeds += 1
            row.steps_to += [step] if step is not None else []
            _log(f"{case.name} seed {seed}: {failure or f'reached {wanted:g} at step {step}'}")


def _run(settings: Settings, deadline: float, arguments: Iterable[str]) -> str:
    """Run `train.py`; returns the error in one line, or an empty string.

    Raises:
        TimeIsUp: it is after the deadline.
    """
    from downpour.scaling import plan

    if time.monotonic() > deadline:
        raise TimeIsUp(f"{settings.minutes:g} minutes are over")
    return plan.run(list(arguments))


def _draw(settings: Settings, rows: Any, out: Path) -> str:
    """Measure the machine, fit the cost model, draw the figures; returns the report of the model."""
    from downpour.scaling import model, pictures

    text, fitted_model = "", None
    if rows[0].case.steps:  # the model is one of gradient steps
        _log("measuring all-reduces and pushes, to which the cost model is fitted")
        try:
            machine = _measure_machine(sorted({row.case.devices for row in rows} - {1}))
        except subprocess.CalledProcessError as error:
            why = (error.stderr or "").strip().rpartition("\n")[2]
            text = f"No cost model: {' '.join(error.cmd[1:3])} failed: {why}"
        else:
            fitted_model = model.fit_model(rows, machine)
            text = model.report(fitted_model, rows, settings.servers)
            _write_csv(out / "all_reduce.csv", ("ranks", "bytes", "seconds"), machine.all_reduce)
            _write_csv(out / "pushes.csv", ("workers", "servers", "bytes", "seconds"), machine.pushes)
    arguments = (settings.scaling, settings.servers, settings.predict)
    pictures.efficiency(rows, fitted_model, *arguments, out / "efficiency.png")
    pictures.speed_up(rows, out / "speedup.png")
    if any(row.steps_to for row in rows):
        pictures.to_accuracy(rows, settings.accuracy or 0.0, out / "accuracy.png")
    if any(row.staleness for row in rows):
        pictures.staleness(rows, out / "staleness.png")
    return text


def _measure_machine(counts: list[int]) -> Any:
    """Measure this machine; with one number of ranks, also with twice as many, to test the fit on."""
    from downpour.scaling import all_reduces, model, pushes
    from downpour.trainer import cores

    held_out = [2 * counts[-1]] if len(counts) == 1 else []
    times, computing = all_reduces.measure([1, *counts, *held_out])
    return model.Machine(cores(), times, computing, all_reduces.adding_time(), pushes.measure())


def _write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    write_text(path, text.getvalue())


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
