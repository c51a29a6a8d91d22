"""A sweep's report: its numbers, and every run that went wrong, by name."""

import csv
import errno
import io
import itertools
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from tests.analysis.runs_factory import write_run, write_supervised_run

from downpour.analysis.configurations import group
from downpour.analysis.report import report
from downpour.analysis.runs import FAILURE_FILE, RunDirectory, find_runs
from downpour.analysis.sensitivity import sensitivity, swept
from downpour.analysis.statistics import Interval
from downpour.analysis.table import interval
from downpour.analysis.text import spaced
from downpour.config import ConfigError

SRC = Path(__file__).parents[2] / "src"


def make_sweep(path: Path, *, seeds: int = 6) -> Path:
    """Two algorithms; run s of each ends at 100 s (dqn) or 100 s + 50, and its last 100 episodes at s."""
    path.mkdir(parents=True)
    (path / "multirun.yaml").write_text("hydra: {}\n")
    for job, (algo, seed) in enumerate((algo, seed) for algo in ("dqn", "double_dqn") for seed in range(seeds)):
        final = 100.0 * seed + 50 * (algo == "double_dqn")
        write_run(
            path / str(job),
            overrides=[f"algo={algo}", f"seed={seed}"],
            choices={"algo": algo},
            seed=seed,
            evaluations=[(1000, final + 7), (2000, final)],
            returns=[1000.0] * 50 + [float(seed)] * 100,
        )
    return path


def test_a_full_disk_leaves_the_earlier_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, really = write_run(tmp_path / "run"), Path.write_text

    def full(path: Path, text: str, **how: Any) -> None:
        really(path, text[:10], **how)
        raise OSError(errno.ENOSPC, "No space left on device")

    report([run], tmp_path)
    earlier = (tmp_path / "table.md").read_text()
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError):
        report([run], tmp_path)
    assert (tmp_path / "table.md").read_text() == earlier and not list(tmp_path.glob("*.partial"))


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((path / "table.csv").read_text())))


def test_the_numbers_are_those_of_the_runs(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep")
    text = report(find_runs(sweep), sweep)
    assert (sweep / "table.md").read_text() == text + "\n"
    double, dqn = rows_of(sweep)
    assert (double["configuration"], dqn["configuration"]) == ("algo=double_dqn", "algo=dqn")
    assert float(double["final_mean"]) == 300 and float(dqn["final_mean"]) == 250
    assert float(dqn["best_mean"]) == 257 and float(dqn["training_mean"]) == 2.5
    assert float(dqn["final_iqm"]) == np.mean([100, 200, 300, 400])
    assert float(dqn["final_low"]) < 250 < float(dqn["final_high"])
    assert (dqn["metric"], dqn["axis"], dqn["steps"], dqn["seeds"]) == (
        "eval/return_mean",
        "env_steps",
        "2000",
        "6",
    )
    assert float(dqn["steps_per_second"]) == 8000
    line = next(line for line in text.splitlines() if "algo=dqn" in line)
    assert "| 250.0 [" in line and "2 000 |" in line and "8 000 |" in line
    assert imread(sweep / "curves.png").std() > 0.01
    assert not (sweep / "curves.pdf").exists()


def test_failed_runs_are_named_and_in_no_mean(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep", seeds=2)
    bad = {"overrides": ["algo=dqn", "seed=2"], "choices": {"algo": "dqn"}, "seed": 2}
    write_run(sweep / "4", evaluations=[(1000, -1e9)], status="failed", error="loss is NaN at 1 200", **bad)
    (sweep / "5").mkdir()
    (sweep / "5" / FAILURE_FILE).write_text("env.id=X: no such environment\n")
    text = report(find_runs(sweep), sweep)
    assert text.startswith("2 of 6 runs failed.")
    assert "- 4 (algo=dqn seed=2): loss is NaN at 1 200" in text
    assert "- 5: env.id=X: no such environment" in text
    _, dqn = rows_of(sweep)
    assert (dqn["seeds"], dqn["failed"], float(dqn["final_mean"])) == ("2", "1", 50.0)
    assert "2 (+1 failed)" in text and "fewer than 5 seeds" in text


def test_a_sweep_whose_every_job_failed_says_so(tmp_path: Path) -> None:
    (tmp_path / "multirun.yaml").write_text("hydra: {}\n")
    (tmp_path / "curves.png").write_bytes(b"of an earlier sweep")
    for job in range(2):
        (tmp_path / str(job)).mkdir()
        (tmp_path / str(job) / FAILURE_FILE).write_text("ValueError: boom\n")
    text = report(find_runs(tmp_path), tmp_path)
    assert text.startswith("All 2 runs failed") and text.count("ValueError: boom") == 2
    assert not (tmp_path / "curves.png").exists()
    assert (tmp_path / "table.md").exists() and (tmp_path / "table.csv").exists()


def test_runs_that_are_not_finished_count_and_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=1, status=None)
    write_run(tmp_path / "c", seed=2, status="stopped")
    write_run(tmp_path / "d", seed=2, status=None)
    text = report(find_runs(tmp_path), tmp_path / "out")
    assert "../b: still running or killed; read up to 2 001 env_steps" in text.replace(str(tmp_path), "..")
    assert "c: stopped at 2 000 env_steps" in text
    assert "Superseded by another run with the same seed:" in text
    [row] = rows_of(tmp_path / "out")
    assert row["seeds"] == "3" and row["failed"] == "0"


def test_a_final_value_that_is_not_finite_is_not_passed_over(tmp_path: Path) -> None:
    for seed, final in enumerate((10.0, 20.0, float("nan"))):
        write_run(tmp_path / str(seed), seed=seed, evaluations=[(1000, 1.0), (2000, final)])
    assert "(2 of 3)" in report(find_runs(tmp_path), tmp_path)


def test_supervised_runs_are_judged_by_accuracy(tmp_path: Path) -> None:
    for seed in range(3):
        write_supervised_run(tmp_path / str(seed), seed=seed)
    text = report(find_runs(tmp_path), tmp_path)
    assert "eval/accuracy" in text and "gradient_steps" in text and "training episodes" not in text
    [row] = rows_of(tmp_path)
    assert row["configuration"] == "supervised on digits" and row["training_mean"] == ""
    assert float(row["steps_per_second"]) == 50  # 600 steps in 12 s
    assert float(row["best_mean"]) >= float(row["final_mean"])


def test_another_metric_less_of_which_is_better(tmp_path: Path) -> None:
    run = write_supervised_run(tmp_path / "run")
    losses = [
        float(line.split(",")[3]) for line in (run / "metrics.csv").read_text().splitlines()[1:] if line.split(",")[3]
    ]
    report([run], tmp_path, metric="eval/loss", pdf=True)
    [row] = rows_of(tmp_path)
    assert float(row["best_mean"]) == pytest.approx(min(losses))
    assert float(row["final_mean"]) == pytest.approx(losses[-1])
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")


def test_an_unknown_metric_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"metric=eval/return_meen.*did you mean eval/return_mean\?.*train/loss"):
        report([run], tmp_path / "out", metric="eval/return_meen")
    assert not (tmp_path / "out").exists()


def test_environments_of_two_kinds_have_two_tables(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_supervised_run(tmp_path / "b")
    text = report(find_runs(tmp_path), tmp_path)
    assert text.count("| configuration") == 2
    assert [row["metric"] for row in rows_of(tmp_path)] == ["eval/return_mean", "eval/accuracy"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (Interval(488.68, 472.61, 500.0, 10), "488.7 [472.6, 500.0]"),
        (Interval(-91.5, -98.7, -84.333, 10), "-91.50 [-98.70, -84.33]"),
        (Interval(0.97512, 0.97, 0.98, 10), "0.9751 [0.9700, 0.9800]"),
        (Interval(500.0, float("nan"), float("nan"), 1), "500.0"),
        (Interval(float("nan"), float("nan"), float("nan"), 0), "-"),
    ],
)
def test_intervals_as_text(values: Interval, text: str) -> None:
    assert interval(values) == text
    assert spaced(1234567.8) == "1 234 568"


APP = """
import json, pathlib, sys
import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

@hydra.main(version_base=None, config_path=None, config_name="app")
def main(cfg):
    run = HydraConfig.get().runtime.output_dir
    run = pathlib.Path(run)
    if cfg.seed in cfg.bad:
        raise ValueError("the loss is NaN")
    OmegaConf.save(cfg, run / "config.yaml")
    overrides = [str(each) for each in HydraConfig.get().overrides.task]
    (run / "choices.yaml").write_text(json.dumps({"overrides": overrides, "choices": {}}))
    (run / "metrics.csv").write_text(f"env_steps,eval/return_mean\\n10,{cfg.x}\\n20,{cfg.x + cfg.seed}\\n")
    (run / "summary.json").write_text(json.dumps({"status": "finished", "seed": cfg.seed, "env_steps": 20}))
    return float(cfg.x)

ConfigStore.instance().store("app", {
    "seed": 0, "x": 1, "bad": [], "env": {"id": "CartPole-v1"},
    "hydra": {"sweep": {"dir": "sweep"}, "run": {"dir": "run"},
              "callbacks": {"report": {"_target_": "downpour.analysis.report.SweepReport"}}},
})
main()
"""


def sweep_with_hydra(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "app.py").write_text(textwrap.dedent(APP))
    return subprocess.run(
        [sys.executable, "app.py", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(SRC), "PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_multirun_ends_with_its_report(tmp_path: Path) -> None:
    done = sweep_with_hydra(tmp_path, "-m", "x=9,10", "seed=range(3)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| x=") == 2 and done.stdout.index("| x=9") < done.stdout.index("| x=10")
    assert (tmp_path / "sweep/table.md").read_text().strip() in done.stdout
    assert imread(tmp_path / "sweep/curves.png").std() > 0.01
    assert [row["final_mean"] for row in rows_of(tmp_path / "sweep")] == ["10", "11"]


def test_a_multirun_with_a_failed_job_fails_and_has_its_report_all_the_same(tmp_path: Path) -> None:
    done = sweep_with_hydra(tmp_path, "-m", "seed=0,1,2", "bad=[1]")
    assert done.returncode == 1 and "ValueError: the loss is NaN" in done.stderr
    text = (tmp_path / "sweep/table.md").read_text()
    assert text.startswith("1 of 3 runs failed.") and "- 1 (seed=1 bad=[1]): ValueError: the loss is NaN" in text
    assert text.strip() in done.stdout
    assert (tmp_path / "sweep/curves.png").exists()


def test_a_report_that_cannot_be_made_does_not_fail_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "sweep/table.md").mkdir(parents=True)  # in the way of the report
    done = sweep_with_hydra(tmp_path, "-m", "seed=0,1")
    assert done.returncode == 0
    assert "The report of the sweep failed" in done.stderr and "Traceback" not in done.stderr
    assert "runs=" in done.stderr


def test_a_single_run_has_no_sweep_report(tmp_path: Path) -> None:
    done = sweep_with_hydra(tmp_path, "bad=[0]")
    assert done.returncode == 1 and "configuration" not in done.stdout
    assert not (tmp_path / "run" / FAILURE_FILE).exists()


def test_a_swept_number_gets_a_picture_of_its_own(tmp_path: Path) -> None:
    for place, (kind, size, seed) in enumerate(itertools.product(("batch", "layer"), (1, 8, 64), (0, 1))):
        overrides = [f"model.normalization={kind}", f"data.batch_size={size}", f"seed={seed}"]
        write_supervised_run(tmp_path / str(place), seed=seed, overrides=overrides)
    runs = find_runs(tmp_path)
    configurations = group(map(RunDirectory, runs))
    assert swept(configurations) == ("data.batch_size", "model.normalization")
    assert swept(configurations[:3]) == ("data.batch_size", None) and swept(configurations[1::3]) is None
    axes = sensitivity(configurations).axes[0]
    assert axes.get_xscale() == "log" and [line.get_label() for line in axes.lines] == [
        "normalization=batch",
        "normalization=layer",
    ]
    assert axes.lines[0].get_xdata().tolist() == [1, 8, 64]
    finals = [json.loads((run / "summary.json").read_text()) for run in runs]
    assert len(finals) == 12 and np.isfinite(axes.lines[1].get_ydata()).all()
    report(runs, tmp_path / "out")
    assert (tmp_path / "out" / "sensitivity.png").stat().st_size > 1000
    for each in configurations:  # the number of processes follows from the trainer
        processes = 1 if each.settings.pop("model.normalization") == "batch" else 2
        each.settings |= {"trainer": "cpu" if processes == 1 else "ddp_cpu", "trainer.devices": str(processes)}
    assert swept(configurations) == ("data.batch_size", "trainer")
