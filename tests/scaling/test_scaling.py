"""`python src/scale.py`: runs whose speed is known, and one that is measured."""

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import numpy as np
import pytest
from tests.scaling.runs import SERVER, SETTINGS, TASK, WEIGHTS, Runs, pushed, step_time, table

from downpour.cost_model import Link, ring
from downpour.scaling import all_reduces, plan, pushes
from downpour.scaling.command import main
from downpour.scaling.model import Machine, curves, fit_model, report
from downpour.scaling.plan import ALONE, Case
from downpour.scaling.results import Row, compare


@pytest.mark.parametrize("scaling", ["weak", "strong"])
def test_efficiency_is_what_the_speed_of_the_runs_makes_it(runs: Runs, tmp_path: Path, scaling: str) -> None:
    arguments = ["strategy=ddp,fsdp2", "devices=1,2,4", "turns=2", f"scaling={scaling}", "accuracy=0.5", "seeds=2"]
    assert main([*TASK, *arguments, "predict=64", f"out={tmp_path}"], SETTINGS) == 0
    found = {(row["strategy"], row["devices"], row["batch"]): row for row in table(tmp_path)}
    for devices in (2, 4):
        batch = 64 if scaling == "weak" else 64 // devices
        row = found["ddp", str(devices), str(batch)]
        step, one = step_time(devices, batch), step_time(1, 64)
        # T: 1200 steps of 64 samples; T_N: as many samples.
        time, time_n = 1200 * one, (1200 / devices if scaling == "weak" else 1200) * step
        assert float(row["seconds"]) == pytest.approx(time_n, rel=1e-3)
        assert float(row["efficiency"]) == pytest.approx(time / (devices * time_n), rel=1e-3)
        assert float(row["not_computing"]) == pytest.approx(1 - step_time(1, batch) / step, rel=1e-3)
        assert float(row["communicating"]) == 0.25
        assert float(row["bytes"]) == 4000 * (devices - 1) and row["weights"] == str(WEIGHTS)
        assert float(row["staleness"]) == pytest.approx(0.7 * (devices - 1))
        assert row["steps_to_accuracy"] == " ".join([str(600 // devices)] * 2)
        assert float(row["seconds_to_accuracy"]) == pytest.approx(600 / devices * step, rel=1e-3)
    assert found["fsdp2", "2", str(64 if scaling == "weak" else 32)]["failure"] == "strategy=fsdp2: needs a GPU"
    text = (tmp_path / "scale.md").read_text()
    assert f"{scaling.capitalize()} scaling" in text and "1 200" not in text.splitlines()[2]
    assert "alpha 50.0 us per message, beta 1.000 ns per byte" in text
    for said in (
        "all-reduce, sizes not fitted, N = 2: 0 % (of 3)",
        "all-reduce, N = 4: 0 % (of 7)",
        "pushes, N = 4: 0 % (of 6)",
        "ddp N=4 batch=",
        "staleness 2.10 on average, 3 at most (0: 30.0 %, 3: 70.0 %)",
    ):
        assert said in text
    if scaling == "weak":
        assert "300 updates to the accuracy, 0.50 times those of one process" in text
    for picture in ("efficiency", "speedup", "accuracy", "staleness"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 5000
    assert {(given["strategy"], given["trainer.devices"] == "1") for given in runs.given} == {
        ("auto", True),
        ("ddp", False),
        ("fsdp2", False),
    }
    assert sum(given.get("strategy") == "fsdp2" for given in runs.given) == 2  # not tried again in the next turn


def test_sizes_are_compared_with_themselves(runs: Runs, tmp_path: Path) -> None:
    sizes = "sizes=model.hidden=[8];model.hidden=[32] optimizer=sgd"
    assert main([*TASK, "devices=2", "turns=1", sizes, f"out={tmp_path}"], SETTINGS) == 0
    rows = table(tmp_path)
    assert [row["model"] for row in rows] == ["model.hidden=[8]"] * 2 + ["model.hidden=[32] optimizer=sgd"] * 2
    assert {given["model.hidden"] for given in runs.given} == {"[8]", "[32]"}
    assert "all-reduce, N = 4: 0 % (of 7)" in (tmp_path / "scale.md").read_text()  # tried on a number not asked for


def test_an_override_of_a_strategy_goes_to_the_runs_that_have_it(runs: Runs, tmp_path: Path) -> None:
    strategies = "strategy=ddp;ddp strategy.compress=bf16;downpour strategy.servers=2"
    assert main([*TASK, strategies, "strategy.n_push=2", "devices=2", "turns=1", f"out={tmp_path}"], SETTINGS) == 0
    assert [row["strategy"] for row in table(tmp_path)] == [
        ALONE,
        "ddp",
        "ddp compress=bf16",
        "downpour n_push=2 servers=2",
    ]
    own = [{key: value for key, value in given.items() if key.startswith("strategy.")} for given in runs.given]
    assert own == [{}, {}, {"strategy.compress": "bf16"}, {"strategy.n_push": "2", "strategy.servers": "2"}]
    assert "| downpour n_push=2 servers=2 |" in (tmp_path / "scale.md").read_text()


def test_one_process_is_one_process_whatever_the_trainer(runs: Runs, tmp_path: Path) -> None:
    assert main([*TASK, "trainer=ddp_cpu", "devices=2", "turns=1", f"out={tmp_path}"], SETTINGS) == 0
    assert [(given["strategy"], given["trainer.devices"]) for given in runs.given] == [("auto", "1"), ("ddp", "2")]


def test_what_was_measured_is_kept_where_the_model_cannot_be_fitted(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise CalledProcessError(1, ["python", "-m", "downpour.scaling.pushes"], stderr="Traceback\nEmpty: no answer\n")

    monkeypatch.setattr(pushes, "measure", fails)
    assert main([*TASK, "devices=2", "turns=1", f"out={tmp_path}"], SETTINGS) == 0
    assert len(table(tmp_path)) == 2
    said = "No cost model: -m downpour.scaling.pushes failed: Empty: no answer"
    assert said in (tmp_path / "scale.md").read_text()
    assert (tmp_path / "efficiency.png").exists()


def test_no_run_starts_when_the_time_is_over(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TASK, "minutes=1e-9", f"out={tmp_path}"], SETTINGS) == 1
    assert not runs.given
    assert "1e-09 minutes are over: no more runs" in capsys.readouterr().err


def test_ctrl_c_ends_the_measurement_and_leaves_what_there_is(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(settings: Sequence[str]) -> str:
        if len(runs.given) == 4:  # one process, ddp; the same of the second size; then the second turn
            raise KeyboardInterrupt
        return runs(settings)

    monkeypatch.setattr(plan, "run", interrupted)
    sizes = "sizes=model.hidden=[8];model.hidden=[32]"
    assert main([*TASK, "devices=2", "turns=5", sizes, f"out={tmp_path}"], SETTINGS) == 0
    assert [len(row["efficiencies"].split()) for row in table(tmp_path)] == [1, 1, 1, 1]


def rows_of(straggle: float, overhead: float, truth: Link, counts: Sequence[int]) -> list[Row]:
    """One process with two batch sizes, and rows of the model itself on as many cores."""
    found = []
    for devices in (1, *counts):
        for batch in (32, 64) if devices == 1 else (64,):
            case = Case(ALONE if devices == 1 else "ddp", devices, "", batch, 100, devices, devices)
            fastest = (1e-3 + 1e-4 * batch) / (1 + straggle)
            harmonic = sum(1 / k for k in range(1, devices + 1))
            step = fastest * (1 + straggle * harmonic)
            step += ring(truth, devices, 4 * WEIGHTS) + overhead if devices > 1 else 0
            found.append(Row(case, samples=6400, weights=WEIGHTS, rates=[batch * devices / step]))
    found[0], found[1] = found[1], found[0]  # the task first
    compare(found)
    return found


def machine(cores: int, truth: Link, computing: dict[int, list[float]], wrong: float = 1.0) -> Machine:
    """Whose all-reduces take what the model says; those of eight ranks `wrong` times as long."""
    sizes, counts = (4e3, 1.6e5, 4e6), [ranks for ranks in computing if ranks > 1]
    times = [(r, n, ring(truth, r, n) * max(1, r / cores) * (wrong if r == 8 else 1)) for r in counts for n in sizes]
    return Machine(cores, times, computing, truth.gamma, pushed(cores))


def test_the_model_finds_what_made_the_rows_and_predicts_those_left_out() -> None:
    computing = {ranks: [1e-3, 1.6e-3] for ranks in (1, 2, 4, 8)}  # late by 0.3 of the fastest on average
    truth = Link(2e-5, 3e-9, 1e-10)
    rows = rows_of(0.3, 2e-4, truth, (2, 4, 8))
    model = fit_model(rows, machine(8, truth, computing))
    assert (model.link.alpha, model.link.beta) == pytest.approx((2e-5, 3e-9))
    assert (model.straggle, model.overhead, model.effective_cores) == pytest.approx((0.3, 2e-4, 8), rel=1e-3)
    assert model.fitted == [2, 4] and model.compute[""] == pytest.approx((1e-3, 1e-4), rel=1e-6)
    assert {what: count for what, (_, count) in model.errors.items()} == {
        "all-reduce, sizes not fitted, N = 2": 1,
        "all-reduce, sizes not fitted, N = 4": 1,
        "all-reduce, N = 8": 3,
        "pushes, N = 4": 6,
        "synchronous step, N = 8": 1,
    }
    assert max(error for error, _ in model.errors.values()) < 0.01
    assert fit_model(rows, machine(8, truth, computing, 2)).errors["all-reduce, N = 8"][0] == pytest.approx(0.5)
    ranks, found = curves(model, rows[0], "weak", 1, 4096)
    assert ranks[-1] == 4096 and all(len(values) == 13 for values in found.values())
    assert found["ring"][1] == pytest.approx(rows[2].efficiency, rel=1e-3)
    assert found["Rabenseifner"][-1] > found["ring"][-1]
    most = model.server_pays_to("", WEIGHTS, 64, 1)
    saturated = [value * n for n, value in zip(ranks, found["parameter server, 1"], strict=True) if n > 2 * most]
    assert np.ptp(saturated) / saturated[0] < 0.01  # more ranks, no more updates


def test_ranks_that_share_cores_are_a_regime_of_their_own() -> None:
    """Two ranks at once take 1.25 times as long as one: together they are 1.6 cores. Four take turns."""
    truth = Link(2e-5, 3e-9, 1e-10)
    rows = rows_of(0.0, 0.0, Link(0, 0), (2, 4))
    model = fit_model(rows, machine(2, truth, {1: [1.0], 2: [1.25], 4: [2.5]}))
    assert model.fitted == [2] and model.effective_cores == pytest.approx(1.6) and model.straggle == 0
    assert (model.link.alpha, model.link.beta) == pytest.approx((2e-5, 3e-9))
    assert model.shared_link(4).alpha == pytest.approx(4e-5)
    assert model.errors["all-reduce, N = 4, which share 2 core(s)"] == (pytest.approx(0, abs=1e-6), 3)
    assert "synchronous step, N = 4, which share 2 core(s)" in model.errors
    one = model.one_process("", 64)
    assert model.step("", 0, 64, 4) == pytest.approx(2.5 * one + 6 * 4e-5)
    assert model.step("", 0, 64, 4, shared=False) == pytest.approx(one + 6 * 2e-5)
    assert "E_N is at most 0.80 (N = 2)" in report(model, rows, 1)


def test_an_asynchronous_step_is_predicted_from_pushes() -> None:
    """Two workers and a server on cores of their own: a step is computing, the worker's part and the server's."""
    rows = rows_of(0.0, 0.0, Link(0, 0), ())
    step = rows[0].step + SERVER.busy(4 * WEIGHTS) + SERVER.own(4 * WEIGHTS)
    for strategy, wrong in (("downpour", 1.25), ("downpour strategy.n_push=9", 9.0)):  # the second is no such thing
        case = Case(strategy, 2, "", 64, 100, 1, 2, 1)
        rows.append(Row(case, samples=6400, rates=[64 * 2 / step / wrong], staleness={1: 100}))
    compare(rows)
    model = fit_model(rows, machine(8, Link(2e-5, 3e-9), {1: [1.0], 2: [1.0]}))
    assert model.errors["asynchronous step, N = 2"] == (pytest.approx(0.2, rel=0.02), 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["strategy=dpd"], "strategy=dpd: there is no such option; did you mean ddp?"),
        (["devices=1"], "devices=1: needs at least one number of processes above 1"),
        (["devices=two"], "devices=two: must be numbers of processes separated by commas"),
        (
            ["strategy=ddp,downpour", "strategy.servrs=2"],
            "strategy=ddp,downpour; did you mean strategy.servers?",
        ),
        (["strategy=ddp strategy.servers=2"], "strategy.servers"),
        (["turns=0"], "turns=0: must be greater than or equal to 1"),
        (["scaling=strong", "devices=3"], "data.batch_size=64: cannot be divided evenly between 3"),
        (["model.hiden=[3]"], "model.hiden=[3]: there is no such key; did you mean model.hidden?"),
        (["strategy=ddp;ddp strategy.compress=bf16", "model.hidden=[64"], "scale: model.hidden=[64: cannot be parsed"),
        (["sizes=model.hidden=[8];model.hiden=[9]"], "model.hiden=[9]: there is no such key"),
        (["scalling=strong"], "scalling"),
    ],
)
def test_bad_input_is_one_line(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main([*TASK, *arguments, f"out={tmp_path / 'out'}"], SETTINGS) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and said in shown.err and shown.err.count("\n") == 1
    assert not runs.given and not (tmp_path / "out").exists()


def test_strong_scaling_needs_batches(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algo=dqn", "scaling=strong", f"out={tmp_path}"], SETTINGS) == 2
    assert "this run uses an environment" in capsys.readouterr().err


def test_a_bug_is_no_bad_input(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def task(*_: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr(plan, "task", task)
    with pytest.raises(KeyError):
        main([*TASK, f"out={tmp_path}"], SETTINGS)


@pytest.mark.slow
def test_a_measurement_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process and two, really run; what is written follows from what was measured."""
    really = all_reduces.measure
    monkeypatch.setattr(all_reduces, "measure", lambda counts: really(counts[:2], repeats=2))  # a core each
    monkeypatch.setattr(pushes, "measure", partial(pushes.measure, pushed=1))
    options = ("total_gradient_steps=240", "data.batch_size=16", "model.hidden=[16]", "logger=csv")
    arguments = ("strategy=ddp", "devices=2", "turns=1", "predict=8", f"out={tmp_path}")
    assert main(["algo=supervised", *options, *arguments], SETTINGS) == 0
    one, two = table(tmp_path)
    assert float(one["efficiency"]) == 1 and one["weights"] == two["weights"] == str(64 * 16 + 16 + 170)
    assert float(two["efficiency"]) == pytest.approx(float(two["rate"]) / (2 * float(one["rate"])), rel=1e-6)
    assert float(two["bytes"]) == 4 * int(one["weights"])  # 2 n (N - 1) / N
    with open(tmp_path / "all_reduce.csv", newline="") as file:
        times = [float(row["seconds"]) for row in csv.DictReader(file)]
    assert len(times) == 2 * len(all_reduces.SIZES) and max(times) > 0  # of one rank and of two
    with open(tmp_path / "pushes.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert {(row["workers"], row["servers"]) for row in found} == {(w, s) for w in "124" for s in "12"}
    assert min(float(row["seconds"]) for row in found) > 0
