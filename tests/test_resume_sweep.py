"""A sweep that was cut off goes on where it was."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from tests.analysis.runs_factory import write_run
from tests.commands import SMALL, Commands, Ended, rows

from downpour import directory as directories
from downpour.composition import composed as compose
from downpour.config import ConfigError
from downpour.resume_sweep import typed_before

TYPED = ("-m", "algo=dqn", "seed=0,1,2", *SMALL)


def statuses(sweep: Path) -> list[str]:
    return [str(directories.read_summary(sweep / str(job)).get("status")) for job in range(3)]


def refusal(ended: Ended) -> str:
    assert ended.code == 2
    return ended.err.strip()


@pytest.mark.slow
def test_a_killed_sweep_ends_as_one_that_was_not(commands: Commands) -> None:
    """Its second job half done, its third not begun."""
    whole, cut = commands.folder / "whole", commands.folder / "cut"
    assert commands.run(*TYPED, f"hydra.sweep.dir={whole}").code == 0
    running = commands.start(*TYPED, f"hydra.sweep.dir={cut}")
    running.wait_until((cut / "1/checkpoints/previous.ckpt").exists)
    running.kill()
    running.wait()
    assert statuses(cut) == ["finished", "running", "None"]
    written = (cut / "0/summary.json").stat().st_mtime_ns
    other = commands.run("-m", "algo=dqn", "seed=5,6,7", *SMALL, f"resume_sweep={cut}")
    assert "was started with `algo=dqn seed=0,1,2 total_env_steps=1024" in refusal(other)
    ended = commands.run("-m", f"resume_sweep={cut}")
    assert ended.code == 0, ended.text
    assert statuses(cut) == ["finished"] * 3
    assert (cut / "0/summary.json").stat().st_mtime_ns == written
    for job in range(3):
        for name in ("metrics.csv", "episodes.csv"):
            assert (cut / str(job) / name).read_text() == (whole / str(job) / name).read_text(), (job, name)
    found, expected = rows(cut / "table.csv"), rows(whole / "table.csv")
    assert [{**row, "steps_per_second": ""} for row in found] == [{**row, "steps_per_second": ""} for row in expected]
    again = commands.run(*TYPED, f"resume_sweep={cut}")  # nothing is left to do
    assert again.code == 0
    assert again.text.count("is finished") == 3


def test_what_cannot_be_gone_on_with_is_refused(commands: Commands, finished_run: Path) -> None:
    advice = refusal(commands.run(f"resume_sweep={finished_run}"))
    assert advice.endswith("needs -m; to resume a single run, use resume=DIR")
    advice = refusal(commands.run("-m", f"resume_sweep={finished_run}"))
    assert advice.endswith("is not a sweep directory: it has no multirun.yaml, or not a whole one")
    assert not (finished_run / "0").exists()


OVERRIDES = "hydra:\n  overrides:\n    hydra: []\n"


@pytest.mark.parametrize("left", ["hydra:", OVERRIDES, f"{OVERRIDES}    task:"])
def test_a_record_that_was_cut_short_is_refused(tmp_path: Path, left: str) -> None:
    (tmp_path / "multirun.yaml").write_text(left)
    with pytest.raises(ConfigError, match=r"has no multirun\.yaml, or not a whole"):
        typed_before(str(tmp_path), ["-m", f"resume_sweep={tmp_path}"])


def test_jobs_keep_their_numbers(commands: Commands) -> None:
    """In another order, or by an experiment that has changed, a number would be another job."""
    sweep = commands.folder / "sweep"
    sweep.mkdir()
    typed = ["algo=dqn,double_dqn", "seed=0,1"]
    (sweep / "multirun.yaml").write_text(f"hydra:\n  overrides:\n    hydra: []\n    task: {typed}\n")
    advice = refusal(commands.run("-m", *reversed(typed), f"resume_sweep={sweep}"))
    assert "repeat these settings in this order, or leave them out" in advice
    composed = compose(["algo=dqn"])
    keys: list[Any] = [key for key in composed if key != "hydra"]
    whole: Any = OmegaConf.to_container(OmegaConf.masked_copy(composed, keys), resolve=True)
    write_run(sweep / "0", overrides=["algo=dqn", "seed=7"], config=whole)
    for number, (algo, seed) in enumerate([("dqn", 1), ("double_dqn", 0), ("double_dqn", 1)], 1):
        write_run(sweep / str(number), overrides=[f"algo={algo}", f"seed={seed}"], config=whole)
    ended = commands.run("-m", f"resume_sweep={sweep}")
    assert ended.code == 2 and "/0: was job `algo=dqn seed=7`, now it is `algo=dqn seed=0`" in ended.text
    assert ended.text.count("is finished") == 3


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The directory of a sweep that was started in parallel."""
    hydra = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.mode=MULTIRUN"]
    overrides = {"hydra": hydra, "task": ["algo=dqn", "seed=0,1", "total_env_steps=100"]}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump({"hydra": {"overrides": overrides}}))
    return tmp_path


TASK, LENGTH, JOBLIB = ["algo=dqn", "seed=0,1"], "total_env_steps=100", "hydra/launcher=joblib"


@pytest.mark.parametrize(
    ("now", "added"),
    [
        ([], [*TASK, LENGTH, JOBLIB, "hydra.launcher.n_jobs=2"]),
        (["hydra.launcher.n_jobs=4"], [*TASK, LENGTH, JOBLIB]),
        (["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=60"], [*TASK, LENGTH]),
        ([*TASK, LENGTH], [JOBLIB, "hydra.launcher.n_jobs=2"]),
        (["hydra/launcher=basic", *TASK, LENGTH], []),
        (["++hydra/launcher=basic", *TASK, LENGTH], []),
        (["++hydra.sweep.dir=elsewhere"], [*TASK, LENGTH, JOBLIB, "hydra.launcher.n_jobs=2"]),
        (["total_env_steps=200", "trainer=gpu"], [*TASK, JOBLIB, "hydra.launcher.n_jobs=2"]),
        ([*TASK, "total_env_steps=200"], [JOBLIB, "hydra.launcher.n_jobs=2"]),
        (["+callbacks.checkpoint.every=2"], [*TASK, LENGTH, JOBLIB, "hydra.launcher.n_jobs=2"]),
    ],
)
def test_length_hardware_and_launcher_may_be_others(begun: Path, now: list[str], added: list[str]) -> None:
    arguments = ["-m", f"resume_sweep={begun}", *now]
    assert typed_before(str(begun), arguments) == added


@pytest.mark.parametrize(
    "now",
    [
        ["seed=0,1,2"],
        ["algo=double_dqn"],
        ["algo.gamma=0.9"],
        ["experiment=cleanrl_dqn"],
        ["total_env_steps=200,300"],
        ["seed=0,1", "algo=dqn", LENGTH],
        ["algo=dqn"],
    ],
)
def test_other_jobs_are_refused(begun: Path, now: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"started with `algo=dqn seed=0,1 total_env_steps=100`.* only the length"):
        typed_before(str(begun), ["-m", f"resume_sweep={begun}", *now])


@pytest.mark.slow
def test_a_finished_sweep_trains_for_longer(commands: Commands) -> None:
    """As a sweep of that length would have."""
    long, short = commands.folder / "long", commands.folder / "short"
    two = ("-m", "algo=dqn", "seed=0,1", *SMALL)
    assert commands.run(*two, "total_env_steps=1536", f"hydra.sweep.dir={long}").code == 0
    assert commands.run(*two, f"hydra.sweep.dir={short}").code == 0
    ended = commands.run("-m", f"resume_sweep={short}", "total_env_steps=1536")
    assert ended.code == 0, ended.text
    for job in ("0", "1"):
        assert directories.read_summary(short / job)["env_steps"] == 1536
        for name in ("metrics.csv", "episodes.csv"):
            assert (short / job / name).read_text() == (long / job / name).read_text(), (job, name)
    again = commands.run("-m", f"resume_sweep={short}")  # which now is of that length
    assert again.code == 0 and again.text.count("is finished") == 2
