"""Launchers, sweepers and sweep files, as far as the packages that are installed go."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from downpour import sweeps
from downpour.composition_errors import explain
from downpour.config import ConfigError
from downpour.failures import Failed
from downpour.validation import validate

ROOT = Path(__file__).parents[1]
SHORT = ["total_env_steps=128", "eval_every=64", "eval_episodes=1", "data.learning_starts=64"]
DOUBLE_DQN = yaml.safe_load((ROOT / "sweeps/double_dqn.yaml").read_text())


def installed(package: str) -> Any:
    found = find_spec("hydra_plugins") is not None and find_spec(f"hydra_plugins.{package}") is not None
    return pytest.mark.skipif(not found, reason=f"{package} is an extra: make test EXTRAS=sweep")


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=list(overrides))
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "src/train.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280)


def values(parameter: dict[str, Any]) -> list[Any]:
    """Every value of a W&B parameter that has a list, else the two ends, rounded as W&B does."""
    ends = parameter.get("values") or [parameter["min"], parameter["max"]]
    q = parameter.get("q")
    return [round(each / q) * q for each in ends] if q else ends


@pytest.mark.parametrize("name", DOUBLE_DQN["parameters"])
def test_wandb_sweep_parameters_are_valid_overrides(name: str) -> None:
    command = [each for each in DOUBLE_DQN["command"] if not each.startswith("$")]
    assert command == ["algo=double_dqn", "logger=wandb"]
    for value in values(DOUBLE_DQN["parameters"][name]):
        config = validate(composed(*command, f"{name}={value}"))
        assert OmegaConf.select(OmegaConf.create(config), name) == value


def test_wandb_sweep_is_one_of_this_command_line() -> None:
    assert (ROOT / DOUBLE_DQN["program"]).is_file()
    assert DOUBLE_DQN["command"][:3] == ["${env}", "${interpreter}", "${program}"]
    assert DOUBLE_DQN["command"][-1] == "${args_no_hyphens}"
    assert DOUBLE_DQN["metric"] == {"name": "eval/return_mean", "goal": "maximize"}
    monitored = composed(*DOUBLE_DQN["command"][3:-1])["callbacks"]["checkpoint"]
    assert (monitored["monitor"], monitored["maximize"]) == ("eval/return_mean", True)
    with pytest.raises(ConfigError):  # the test above would see a name or a value that is wrong
        validate(composed("+algo.gama=0.9"))


@installed("hydra_submitit_launcher")
@pytest.mark.parametrize("launcher", ["submitit_slurm", "submitit_local"])
def test_cluster_launchers_compose(launcher: str) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [f"hydra/launcher={launcher}", "hydra.launcher.timeout_min=240"], True)
    assert config.hydra.launcher._target_.startswith("hydra_plugins.hydra_submitit_launcher.")
    assert config.hydra.launcher.timeout_min == 240


@pytest.mark.slow
@installed("hydra_submitit_launcher")
def test_jobs_of_another_process_report_back(tmp_path: Path) -> None:
    arguments = ["-m", "hydra/launcher=submitit_local", "optimizer.lr=1e30,1e-3", f"hydra.sweep.dir={tmp_path}/sweep"]
    done = train(*arguments, *SHORT, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    status = [re.search(r'"status": "(\w+)"', (tmp_path / f"sweep/{job}/summary.json").read_text()) for job in (0, 1)]
    assert [found and found[1] for found in status] == ["failed", "finished"]
    assert "1 of 2 runs failed" in (tmp_path / "sweep/table.md").read_text()


@pytest.mark.slow
@installed("hydra_joblib_launcher")
@installed("hydra_optuna_sweeper")
def test_optuna_maximizes_side_by_side_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    search = [
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=2",
        "hydra.sweeper.sampler.seed=0",
    ]
    space = ["hydra/launcher=joblib", "optimizer.lr=choice(1e-3, 1e30)", f"hydra.sweep.dir={tmp_path}/sweep"]
    done = train("-m", *search, *space, *SHORT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Directions: ['maximize']" in done.stdout and "the loss is" in done.stderr
    result = yaml.safe_load((tmp_path / "sweep/optimization_results.yaml").read_text())
    assert float(result["best_params"]["optimizer.lr"]) == 1e-3
    assert result["best_value"] >= 8  # CartPole's shortest episode, as the sweeper has been told
    assert "1 of 2 runs failed" in (tmp_path / "sweep/table.md").read_text()


@installed("hydra_optuna_sweeper")
def test_the_search_space_of_double_dqn_holds_nothing_but_valid_overrides() -> None:
    from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

    sweeps.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", ["experiment=search_double_dqn"], return_hydra_config=True)
    sweeper = config.hydra.sweeper
    assert sweeper.direction.name == "maximize" and sweeper.n_trials == 40 and sweeper.sampler.seed == 0
    space, fixed = create_params_from_overrides([f"{name}={value}" for name, value in sweeper.params.items()])
    assert not fixed and "optimizer.lr" in space
    for name, distribution in space.items():
        for value in getattr(distribution, "choices", None) or (distribution.low, distribution.high):
            validate(composed("algo=double_dqn", f"{name}={value}"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hydra/sweeper/optuna", "hydra/sweeper=optuna: its package is not installed; make setup EXTRAS=sweep"),
        ("hydra/launcher/joblb", "hydra/launcher=joblb: there is no such option; did you mean joblib?"),
    ],
)
def test_what_is_not_there_is_named_with_its_extra(text: str, said: str) -> None:
    assert explain(ValueError(f"In 'train': Could not find '{text}'"), []).startswith(said)
    assert sweeps.missing("algo", "dqn") is None


def test_a_failed_job_keeps_its_code_from_one_process_to_another() -> None:
    import pickle

    again = pickle.loads(pickle.dumps(Failed(2, "seed=-1: must be positive", lost=True)))
    assert again.code == 2 and str(again) == "seed=-1: must be positive" and again.lost
