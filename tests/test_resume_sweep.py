"""A sweep that was cut off goes on where it was."""

from pathlib import Path

import pytest
from tests.analysis.runs_factory import write_run
from tests.commands import SMALL, Commands, Ended, rows

from downpour import directory as directories

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
    assert advice.endswith("is not a sweep directory: it has no multirun.yaml")
    assert not (finished_run / "0").exists()


def test_jobs_keep_their_numbers(commands: Commands) -> None:
    """In another order, or by an experiment that has changed, a number would be another job."""
    sweep = commands.folder / "sweep"
    sweep.mkdir()
    typed = ["algo=dqn,double_dqn", "seed=0,1"]
    (sweep / "multirun.yaml").write_text(f"hydra:\n  overrides:\n    hydra: []\n    task: {typed}\n")
    advice = refusal(commands.run("-m", *reversed(typed), f"resume_sweep={sweep}"))
    assert advice.endswith("repeat these settings in this order, or give resume_sweep alone")
    write_run(sweep / "0", overrides=["algo=dqn", "seed=7"])
    for number, (algo, seed) in enumerate([("dqn", 1), ("double_dqn", 0), ("double_dqn", 1)], 1):
        write_run(sweep / str(number), overrides=[f"algo={algo}", f"seed={seed}"])
    ended = commands.run("-m", f"resume_sweep={sweep}")
    assert ended.code == 2 and "/0: was job `algo=dqn seed=7`, now it is `algo=dqn seed=0`" in ended.text
    assert ended.text.count("is finished") == 3
