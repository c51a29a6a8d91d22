"""Short training runs for tests: composed as the door composes them, in this process."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from downpour import experiment, jobs
from downpour.cli import CONF
from downpour.run import Run
from downpour.validation import validate

QUIET = ("logger=csv", "eval_episodes=2", "callbacks.evaluation.num_envs=2")


def composed(*overrides: str) -> dict[str, Any]:
    """The plain configuration that the command line `overrides` asks for."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("train", overrides=list(overrides))
    plain: Any = OmegaConf.to_container(config, resolve=False)
    plain.pop("hydra", None)
    resolved: Any = OmegaConf.to_container(OmegaConf.create(plain), resolve=True)
    return resolved


def train(directory: Path, *overrides: str) -> None:
    """Train in `directory`."""
    jobs.run(composed(*QUIET, *overrides), directory, overrides, {})


def resume(directory: Path, length: str) -> None:
    """Go on with the run in `directory`, to another length."""
    jobs.run({"resume": str(directory)}, directory, [length], {})


def algorithm(tmp_path: Path, *overrides: str) -> Any:
    """What a run would train, before its first step."""
    config = validate(composed(*overrides))
    run = Run(directory=tmp_path, seed=config["seed"], total_steps=1000, eval_every=1000, eval_episodes=1)
    return experiment.build_parts(config, run)[0]


def resumes_exactly(tmp_path: Path, *overrides: str, steps: int = 600, counted: str = "env_steps") -> None:
    """A run stopped half way and resumed writes what one never stopped writes."""
    options = (*overrides, f"eval_every={steps // 2}", "callbacks.recorder.every=100")
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    train(whole, *options, f"total_{counted}={steps}")
    train(halved, *options, f"total_{counted}={steps // 2}")
    resume(halved, f"total_{counted}={steps}")
    for name in ("metrics.csv", "episodes.csv"):
        assert (halved / name).read_text() == (whole / name).read_text(), name
    assert len((whole / "metrics.csv").read_text().splitlines()) > 3
