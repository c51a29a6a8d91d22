"""One job from its composed configuration to its result: new or resumed, in this process or in several."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from downpour import directory as directories
from downpour import experiment
from downpour.cli import Failed
from downpour.config import ConfigError, build, locate, nearest
from downpour.launch import launch
from downpour.trainer import Hardware

log = logging.getLogger(__name__)


def run(
    config: Mapping[str, Any], directory: Path, overrides: Sequence[str], choices: Mapping[str, str]
) -> float | None:
    """Train what `config` says, in `directory`.

    Returns:
        What the last evaluation found, of the metric that decides which checkpoint is best; for sweepers.

    Raises:
        ConfigError: before anything is built or written, wherever possible.
        Failed: one of several processes failed and has said why.
    """
    if config["resume"]:
        continued = resumed(Path(config["resume"]), overrides)
        if continued is None:
            return directories.read_summary(directory).get(
                experiment.monitored(directories.read_config(directory, "resume"))
            )
        config = continued
    elif (directory / directories.CONFIG).exists():
        raise ConfigError("hydra.run.dir", directory, "holds a run already; name another, or resume it with resume=DIR")
    config = experiment.validate(config)
    hardware: Hardware = build(config["trainer"])
    with directories.locked(directory):
        if not config["resume"]:
            directories.write_config(directory, config, {"overrides": list(overrides), "choices": dict(choices)})
        if hardware.world_size == 1:
            directories.log_to(directory)
            experiment.fit(config, directory)
        elif code := launch(config, directory, hardware):
            raise Failed(code)
        finish(directory)
    return directories.read_summary(directory).get(experiment.monitored(config))


def finish(directory: Path) -> None:
    """Draw the learning curve; a picture that cannot be drawn must not fail a run that has ended well."""
    from downpour.analysis.curves import learning_curve

    try:
        learning_curve(directory)
    except Exception as error:
        log.warning("curve.png could not be drawn: %s", error)


def resumed(directory: Path, overrides: Sequence[str]) -> dict[str, Any] | None:
    """The configuration of a run to go on with, or None if it is finished.

    It is the run's own, but for values given again on the command line (a longer total_env_steps, say).

    Raises:
        ConfigError: not a run; or an override that would make it another run.
    """
    config: Any = OmegaConf.create(directories.read_config(directory, "resume"))
    groups = (Path(__file__).resolve().parents[2] / "conf").iterdir()
    names = {group.name for group in groups if group.is_dir()}
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key in ("resume", "resume_sweep"):
            continue
        if key in names or key == "seed":
            raise ConfigError(key, value, "a resumed run keeps its own; leave it out")
        if OmegaConf.select(config, key, default=directory) is directory:
            raise ConfigError(key, value, "there is no such key in the run" + nearest(key, list(map(str, config))))
        OmegaConf.update(config, key, yaml.safe_load(value))
    plain: Any = OmegaConf.to_container(config, resolve=True)
    plain["resume"] = str(directory)
    summary = directories.read_summary(directory)
    total = experiment.total_steps(plain)
    counted: Any = locate(plain["data"]["_target_"], "data")
    if summary.get("status") == "finished" and summary.get(counted.step_name, 0) >= total:
        print(f"{directory} is finished; total_{counted.step_name}={2 * total} would go on with it")
        return None
    return plain
