"""Runs that differ by their seed only come together, under a short name."""

import os
from pathlib import Path

import pytest
from tests.analysis.runs_factory import write_run

from downpour.analysis.configurations import HARDWARE, Configuration, group
from downpour.analysis.runs import RunDirectory


def grouped(tmp_path: Path, *overrides: str, **options: object) -> list[Configuration]:
    """Configurations of one run for each text of overrides ("algo=dqn seed=1")."""
    runs = []
    for number, text in enumerate(overrides):
        typed = text.split()
        settings = dict(each.lstrip("+").split("=") for each in typed)
        groups = {key: value for key, value in settings.items() if key in ("algo", "env", "model", "optimizer")}
        path = tmp_path / str(number)
        seed = int(settings.get("seed", number))
        runs.append(RunDirectory(write_run(path, overrides=typed, choices=groups, seed=seed, **options)))  # type: ignore[arg-type]
    return group(runs)


def labels(configurations: list[Configuration]) -> list[str]:
    return [each.label for each in configurations]


def test_seeds_of_a_configuration_come_together(tmp_path: Path) -> None:
    found = grouped(tmp_path, "algo=dqn seed=0", "algo=dqn seed=1", "algo=double_dqn seed=0", "algo=double_dqn seed=1")
    assert labels(found) == ["algo=double_dqn", "algo=dqn"]
    assert [[run.seed for run in each.runs] for each in found] == [[0, 1], [0, 1]]


def test_what_all_share_is_not_in_the_name(tmp_path: Path) -> None:
    found = grouped(tmp_path, "env=acrobot optimizer.lr=1e-3 seed=0", "env=acrobot optimizer.lr=1e-4 seed=0")
    assert labels(found) == ["lr=0.0001", "lr=0.001"]


def test_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    found = grouped(tmp_path, "algo.n_step=10", "algo.n_step=2", "algo.n_step=1")
    assert labels(found) == ["n_step=1", "n_step=2", "n_step=10"]


def test_two_spellings_of_a_number_are_one_configuration(tmp_path: Path) -> None:
    found = grouped(tmp_path, "optimizer.lr=1e-3 seed=0", "optimizer.lr=0.001 seed=1", "optimizer.lr=.01 seed=1")
    assert labels(found) == ["lr=0.001", "lr=0.01"]
    assert len(found[0].runs) == 2


def test_a_typed_default_is_the_default(tmp_path: Path) -> None:
    found = grouped(tmp_path, "seed=0", "algo=double_dqn seed=1", "algo=dqn seed=0")
    assert labels(found) == ["algo=double_dqn", "algo=dqn"] and len(found[0].runs) == 2
    by_value = grouped(tmp_path / "more", "seed=0", "eval_episodes=10 seed=1", "eval_episodes=20 seed=1")
    assert labels(by_value) == ["eval_episodes=10", "eval_episodes=20"] and len(by_value[0].runs) == 2


def test_loggers_and_seeds_tell_nothing_apart(tmp_path: Path) -> None:
    found = grouped(tmp_path, "seed=0 logger=wandb", "+seed=1 logger.wandb.project=x", "seed=2")
    assert labels(found) == ["double_dqn on CartPole-v1"] and len(found[0].runs) == 3


def test_a_list_is_the_same_however_it_is_spelt(tmp_path: Path) -> None:
    shown = grouped(
        tmp_path,
        "model.hidden=[120,84]",
        "model.hidden=[120.0,84]",
        "seed=2",
        "model.hidden=[[8,3],['a']]",
        config={"model": {"hidden": [120, 84]}},
    )
    assert labels(shown) == ["hidden=[120, 84]", "hidden=[[8, 3], [a]]"] and len(shown[0].runs) == 3


def test_last_parts_that_two_keys_share_are_written_out(tmp_path: Path) -> None:
    found = grouped(tmp_path, "actor.lr=1 critic.lr=2", "actor.lr=3 critic.lr=4")
    assert labels(found) == ["actor.lr=1, critic.lr=2", "actor.lr=3, critic.lr=4"]


def test_a_setting_that_others_lack(tmp_path: Path) -> None:
    found = grouped(tmp_path, "seed=0", "+algo.extra=5 seed=0")
    assert sorted(labels(found)) == ["default", "extra=5"]


def test_experiments_in_other_environments_are_told_apart_without_being_typed(tmp_path: Path) -> None:
    runs = [
        RunDirectory(write_run(tmp_path / "a", choices={"env": "cartpole"})),
        RunDirectory(write_run(tmp_path / "b", choices={"env": "acrobot"}, config={"env": {"id": "Acrobot-v1"}})),
    ]
    assert labels(group(runs)) == ["env=acrobot", "env=cartpole"]


def test_the_hardware_may_be_left_out_but_not_the_number_of_processes(tmp_path: Path) -> None:
    """A GPU rounds differently; four processes are another experiment."""
    devices = {"trainer=gpu": 1, "trainer=cpu": 1, "trainer.threads=2": 1, "trainer=ddp_4gpu": 4}
    runs = [
        RunDirectory(write_run(tmp_path / typed, overrides=[typed], seed=seed, config={"trainer": {"devices": count}}))
        for seed, (typed, count) in enumerate(devices.items())
    ]
    assert len(group(runs)) == 4
    assert [len(each.runs) for each in group(runs, without=HARDWARE)] == [3, 1]


@pytest.mark.parametrize(
    ("early", "late", "kept"),
    [
        ("finished", "failed", "0"),
        ("failed", "finished", "1"),
        ("finished", "finished", "1"),
        ("stopped", "running", "1"),
    ],
)
def test_a_seed_counts_once(tmp_path: Path, early: str, late: str, kept: str) -> None:
    runs = []
    for number, status in enumerate((early, late)):
        runs.append(RunDirectory(write_run(tmp_path / str(number), seed=3, status=status)))
        os.utime(runs[-1].path / "config.yaml", (1000.0 + number, 1000.0 + number))
    [configuration] = group(runs)
    assert [run.path.name for run in configuration.runs] == [kept]
    assert [run.path.name for run in configuration.superseded] == ["1" if kept == "0" else "0"]


def test_failed_runs_do_not_count(tmp_path: Path) -> None:
    runs = [
        RunDirectory(write_run(tmp_path / status, seed=seed, status=status))
        for seed, status in enumerate(("finished", "failed", "stopped"))
    ]
    [configuration] = group(runs)
    assert [run.status for run in configuration.counted] == ["finished", "stopped"]
