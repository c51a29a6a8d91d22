"""Run directories are found wherever they are, and read in whatever state they are in."""

import json
from pathlib import Path

import pytest
from tests.analysis.runs_factory import write_run, write_supervised_run

from downpour.analysis.runs import FAILURE_FILE, RunDirectory, find_runs, natural, read_csv
from downpour.config import ConfigError


def names(found: list[Path], root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in found]


def sweep(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "multirun.yaml").write_text("hydra: {}\n")
    return path


def test_find_a_run_a_sweep_a_date_a_glob_a_list(tmp_path: Path) -> None:
    one = sweep(tmp_path / "multirun/2026-11-22/10-00-00-dqn")
    two = sweep(tmp_path / "multirun/2026-11-23/11-00-00-dqn")
    for folder, jobs in ((one, 11), (two, 1)):
        for job in range(jobs):
            write_run(folder / str(job))
    assert find_runs(one / "3") == [one / "3"]
    assert names(find_runs(one), one) == [str(job) for job in range(11)]  # 10 after 9
    assert len(find_runs(tmp_path / "multirun/2026-11-22")) == 11
    assert len(find_runs(tmp_path)) == 12
    assert len(find_runs(f"{tmp_path}/multirun/2026-11-2*/*")) == 12
    assert len(find_runs(f"{one}/3,{two}")) == 2
    assert len(find_runs(f"[{one}/3, {one}]")) == 11  # none twice


def test_a_path_that_exists_is_itself_whatever_its_name(tmp_path: Path) -> None:
    odd = tmp_path / "algo=dqn,seed=[1]"
    write_run(odd)
    assert find_runs(odd) == [odd]


def test_what_is_inside_a_run_is_no_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_run(run / "wandb/files")
    assert find_runs(tmp_path) == [run]


def test_jobs_that_broke_are_found_too(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "sweep")
    write_run(folder / "0")
    (folder / "1").mkdir()
    (folder / "2" / ".hydra").mkdir(parents=True)
    (folder / "notes").mkdir()  # a person's own
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/config.yaml").write_text("a: 1\n")  # nobody's run
    assert names(find_runs(tmp_path), folder) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("missing", "no such directory"),
        ("empty", "contains no run directory"),
        ("run/metrics.csv", "is a file; give the run directory"),
        ("empty/*", "no such directory"),
    ],
)
def test_nothing_to_find_is_said(tmp_path: Path, where: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=said) as error:
        find_runs(tmp_path / where)
    assert where in str(error.value) and "\n" not in str(error.value)


def test_natural_order() -> None:
    assert sorted(["10", "9", "1e-4", "0.001", "adam"], key=natural) == ["1e-4", "0.001", "9", "10", "adam"]
    assert sorted(["a/10-x", "a/9-x", "a/9-w"], key=natural) == ["a/9-w", "a/9-x", "a/10-x"]


def test_a_finished_run(tmp_path: Path) -> None:
    run = RunDirectory(write_run(tmp_path / "run", seed=0, returns=[10.0, 20.0], overrides=["seed=0"]))
    assert (run.axis, run.steps, run.seed, run.status, run.why) == ("env_steps", 2000, 0, "finished", "")
    assert (run.algorithm, run.environment) == ("double_dqn", "CartPole-v1")
    assert list(run.episodes["return"]) == [10.0, 20.0]
    assert list(run.metrics["eval/return_mean"].dropna()) == [100.0, 200.0]


def test_a_supervised_run(tmp_path: Path) -> None:
    run = RunDirectory(write_supervised_run(tmp_path / "run"))
    assert (run.axis, run.steps, run.environment) == ("gradient_steps", 600, "digits")
    assert run.episodes.empty


@pytest.mark.parametrize("tail", ["3000,0.1,38", "3000,", "3", '"3000'])
def test_half_a_last_line_is_not_read(tmp_path: Path, tail: str) -> None:
    path = write_run(tmp_path / "run", status=None)
    with (path / "metrics.csv").open("a") as file:
        file.write(tail)
    run = RunDirectory(path)
    assert list(run.metrics["eval/return_mean"].dropna()) == [100.0, 200.0]
    assert run.steps == 2001
    assert run.status == "unfinished" and "2 001 env_steps" in run.why


def test_tables_that_are_empty_missing_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    assert read_csv(path).empty
    for content, rows in [
        ("", 0),
        ("env_steps,a", 0),
        ("env_steps,a\n", 0),
        ("env_steps,a\n1,x\n,2\n3,4,5,6\n7,8\n", 2),
    ]:
        path.write_text(content)
        assert len(read_csv(path)) == rows
    assert list(read_csv(path)["a"].dropna()) == [8.0]
    path.write_bytes(b"env_steps,a\n1,2\n\xff\xfe\x00,3\n")
    assert list(read_csv(path)["a"]) == [2.0]


def test_damaged_files_are_like_missing_ones(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    (path / "summary.json").write_text('{"status": "fini')
    (path / "config.yaml").write_text("seed: [1, {")
    (path / "choices.yaml").write_text("- a list\n")
    run = RunDirectory(path)
    assert (run.status, run.summary, run.config, run.overrides, run.seed) == ("unfinished", {}, {}, [], None)


def test_why_a_run_failed(tmp_path: Path) -> None:
    told = RunDirectory(write_run(tmp_path / "told", status="failed", error="loss is NaN\nat 1200 env_steps"))
    assert (told.status, told.why) == ("failed", "loss is NaN at 1200 env_steps")

    job = tmp_path / "job"
    job.mkdir()
    (job / FAILURE_FILE).write_text("env.id=CartPol-v1: no such environment; did you mean CartPole-v1?\n")
    assert RunDirectory(job).status == "failed" and "did you mean CartPole-v1" in RunDirectory(job).why

    logged = tmp_path / "logged"
    logged.mkdir()
    (logged / "train.log").write_text("[INFO] starting\n[ERROR] disk is full\n[INFO] bye\n")
    assert RunDirectory(logged).status == "failed" and RunDirectory(logged).why == "[ERROR] disk is full"

    (logged / "train.log").write_text("Traceback (most recent call last):\n  File x\nValueError: bad\n")
    (logged / FAILURE_FILE).write_text("exit code 1\n")
    assert RunDirectory(logged).why == "ValueError: bad"
    (logged / "train.log").unlink()
    assert RunDirectory(logged).why == "exit code 1"

    started = tmp_path / "started"
    started.mkdir()
    assert RunDirectory(started).status == "unfinished" and "just started" in RunDirectory(started).why


def test_a_run_that_was_resumed_to_its_end_has_not_failed(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    (path / FAILURE_FILE).write_text("killed\n")
    assert RunDirectory(path).status == "finished"


def test_what_hydra_kept_of_a_job_that_wrote_nothing(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    kept = {"hydra": {"overrides": {"task": ["algo=dqn", "seed=2"]}, "runtime": {"choices": {"algo": "dqn"}}}}
    (tmp_path / ".hydra/hydra.yaml").write_text(json.dumps(kept))
    run = RunDirectory(tmp_path)
    assert run.identified and run.overrides == ["algo=dqn", "seed=2"] and run.algorithm == "dqn"
