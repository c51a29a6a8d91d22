"""What W&B is told of a run, read back from its own files."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only
from tests.loggers.wandb_file import WandBFile, read_runs

from downpour.config import ConfigError
from downpour.directory import git_commit, write_summary
from downpour.failures import Stopped
from downpour.loggers import WandB
from downpour.run import Run

ROOT = Path(__file__).parents[2]
SHORT = ["logger=wandb", "logger.wandb.mode=offline", "total_env_steps=384", "eval_every=192", "eval_episodes=2"]
SHORT += ["data.learning_starts=64", "callbacks.recorder.every=128"]


@pytest.fixture(autouse=True)
def own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine's owner, nothing left in their home."""
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]:
        monkeypatch.delenv(name)
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "src/train.py"), *arguments, *SHORT]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)


def read_metrics(path: Path) -> list[dict[str, float]]:
    with open(path, newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    merged: dict[float, dict[str, float]] = {}
    for row in rows:
        merged.setdefault(row["env_steps"], {}).update(row)
    return list(merged.values())


def measured(run: WandBFile) -> list[dict[str, float]]:
    ours = ("env_steps", "train/", "eval/", "strategy/")
    return [{name: value for name, value in row.items() if name.startswith(ours)} for row in run.history]


@pytest.mark.slow
def test_each_job_of_a_multirun_is_a_run_of_its_own_even_after_one_that_failed(tmp_path: Path) -> None:
    sweep, commits = tmp_path / "sweep", [git_commit()]
    done = train("-m", "optimizer.lr=1e30,1e-3", f"hydra.sweep.dir={sweep}", "logger.wandb.tags=[a,b]", cwd=tmp_path)
    assert done.returncode == 1 and "the loss is" in done.stderr
    (failed,), (finished,) = read_runs(sweep / "0"), read_runs(sweep / "1")
    assert (failed.exit_code, finished.exit_code) == (1, 0) and failed.id != finished.id
    assert failed.summary["status"] == "failed" and failed.config["optimizer"]["lr"] == 1e30
    assert (finished.project, finished.group, finished.name) == ("downpour", "sweep", "sweep/1")
    assert finished.tags == ["a", "b"]
    assert finished.config["algo"]["gamma"] == finished.config["data"]["gamma"] == 0.99
    assert finished.config["optimizer"]["lr"] == 1e-3 and finished.config["git_commit"] in (*commits, git_commit())
    assert finished.metrics == {"env_steps": "", "*": "env_steps"}
    assert measured(finished) == read_metrics(sweep / "1/metrics.csv")
    assert [row["_step"] for row in finished.history] == [row["env_steps"] for row in finished.history]
    assert finished.summary["status"] == "finished" and "eval/return_mean" in finished.summary
    assert finished.history[-1]["curve"]["_type"] == "image-file"
    assert finished.artifacts == [(f"model-{finished.id}", ["best", "latest"], "model")]


@pytest.mark.slow
def test_two_processes_are_one_run(tmp_path: Path) -> None:
    done = train("trainer=ddp_cpu", f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = read_runs(tmp_path / "run")
    assert run.exit_code == 0 and run.config["trainer"]["devices"] == 2
    assert measured(run) == read_metrics(tmp_path / "run/metrics.csv")


def logger(directory: Path, mode: str = "offline", resume: bool = False, **arguments: Any) -> WandB:
    run = Run(directory, seed=0, total_steps=10, eval_every=5, eval_episodes=1)
    config = {"seed": 0, "resume": str(directory) if resume else None}
    return WandB(run, config, "gradient_steps", mode=mode, **arguments)  # type: ignore[arg-type]


def end(made: WandB, error: BaseException | None) -> None:
    """Close as experiment.fit does."""
    status = "finished" if error is None else "stopped" if isinstance(error, Stopped) else "failed"
    write_summary(made.run.directory, {"status": status})
    if error is None:
        return made.close(status)
    try:
        raise error
    except type(error):
        made.close(status)


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 0), (RuntimeError("no"), 1), (Stopped(signal.SIGTERM), 143), (KeyboardInterrupt(), 130)],
)
def test_exit_code(tmp_path: Path, error: BaseException | None, code: int) -> None:
    made = logger(tmp_path)
    made.log_metrics({"train/loss": 1.0}, 5)
    end(made, error)
    (run,) = read_runs(tmp_path)
    assert run.exit_code == code and run.metrics == {"gradient_steps": "", "*": "gradient_steps"}
    made.log_metrics({"train/loss": 2.0}, 6)  # too late: no new run begins
    assert len(read_runs(tmp_path)) == 1


@pytest.mark.parametrize("files", [["best.ckpt"], ["best.ckpt/.metadata", "best.ckpt/meta.pt"]])
def test_the_best_checkpoint_is_handed_over(tmp_path: Path, files: list[str]) -> None:
    for file in files:
        path = tmp_path / "checkpoints" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("weights")
    made = logger(tmp_path)
    made.log_metrics({"train/loss": 1.0}, 5)
    end(made, None)
    (run,) = read_runs(tmp_path)
    assert sorted(run.files) == files and run.artifacts == [(f"model-{run.id}", ["best", "latest"], "model")]


def test_a_resumed_run_is_the_same_one(tmp_path: Path) -> None:
    first = logger(tmp_path)
    first.log_metrics({"train/loss": 1.0}, 5)
    end(first, Stopped(signal.SIGINT))
    second = logger(tmp_path, resume=True)
    second.log_metrics({"train/loss": 0.5}, 10)
    end(second, None)
    one, two = read_runs(tmp_path)
    assert one.id == two.id and (one.exit_code, two.exit_code) == (130, 0)
    assert two.history[0]["gradient_steps"] == 10
    assert logger(tmp_path, mode="online", resume=True)._wandb_init["resume"] == "allow"
    assert logger(tmp_path, mode="online")._wandb_init["resume"] is None


def test_the_id_of_a_sweep_s_agent_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "agents0wn")
    made = logger(tmp_path)
    made.log_metrics({"train/loss": 1.0}, 5)
    end(made, None)
    assert read_runs(tmp_path)[0].id == "agents0wn"


def test_one_step_is_one_row_and_no_row_goes_back(tmp_path: Path) -> None:
    made = logger(tmp_path)
    for step, metrics in [(5, {"a": 1.0}), (5, {"b": 2.0}), (10, {"a": 3.0}), (5, {"a": 4.0})]:
        made.log_metrics(metrics, step)
    end(made, None)
    (run,) = read_runs(tmp_path)
    rows = [{k: v for k, v in row.items() if k in ("gradient_steps", "a", "b")} for row in run.history]
    assert rows == [{"gradient_steps": 5, "a": 1, "b": 2}, {"gradient_steps": 10, "a": 3}]


def test_the_mode_of_one_run_does_not_reach_the_next(tmp_path: Path) -> None:
    for place, mode in enumerate(["disabled", "offline", "disabled"]):
        made = logger(tmp_path / str(place), mode=mode)
        made.log_metrics({"train/loss": 1.0}, 5)
        assert made.experiment.settings.mode == mode and "WANDB_MODE" not in os.environ
        end(made, None)
    assert [len(read_runs(tmp_path / str(place))) for place in range(3)] == [0, 1, 0]


def test_other_ranks_stay_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    made = logger(tmp_path)
    made.log_metrics({"train/loss": 1.0}, 5)
    assert made.experiment is not None  # Lightning's stand-in, which takes any call
    made.close("finished")
    assert list(tmp_path.iterdir()) == []


def test_online_without_a_login_is_one_message_and_no_question(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"logger\.wandb\.mode=online: No API key.*logger\.wandb\.mode=offline"):
        _ = logger(tmp_path, mode="online").experiment


def test_wandb_is_imported_when_a_run_starts_and_no_sooner(tmp_path: Path) -> None:
    code = "import sys, downpour.loggers; print('wandb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr
