"""The command line: composing with Hydra, and one short message where something cannot work.

Nothing heavy is imported before it is needed, so that --help answers at once.
"""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from downpour import sweeps

ROOT = Path(__file__).resolve().parents[2]
CONF = str(ROOT / "conf")
BAD_INPUT, FAILED = 2, 1


def train() -> None:
    """`python src/train.py`."""
    # Hydra would print and exit by itself; its messages name its own machinery instead of the key.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    OmegaConf.register_new_resolver("or", lambda first, second: first or second, replace=True)
    sweeps.register()
    try:
        hydra.main(version_base="1.3", config_path=CONF, config_name="train")(train_task)()
    except Failed as failed:
        sys.exit(failed.code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:  # a job has answered its own; these are Hydra's, OmegaConf's and the sweepers'
        if "debug=full" in sys.argv:
            raise
        say(explain_composition(error))
        sys.exit(BAD_INPUT)


class Failed(Exception):
    """A run ended badly, and the person has been told why."""

    def __init__(self, code: int):
        self.code = code
        super().__init__(code)  # what it is made from again in another process

    def __str__(self) -> str:
        return f"exit code {self.code}"


def train_task(composed: DictConfig) -> float | None:
    """One job: a single run, or one of a multirun. Returns what a sweeper optimizes."""
    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir).resolve()
    overrides = list(hydra_config.overrides.task)
    choices = {name: choice for name, choice in hydra_config.runtime.choices.items() if "/" not in name}
    config: Any = OmegaConf.to_container(composed, resolve=True)
    result: list[float | None] = []

    def job() -> None:
        from downpour import jobs

        result.append(jobs.run(config, directory, overrides, choices))

    code = guarded(job, config, directory)
    if code and hydra_config.mode == RunMode.RUN:
        sys.exit(code)  # an exception would have Hydra print a second message
    if code:
        raise Failed(code)
    return result[0]


def guarded(job: Callable[[], Any], config: Mapping[str, Any], directory: Path, quiet: bool = False) -> int:
    """Run `job`; answer what goes wrong with one message on stderr (none if `quiet`) and an exit code."""
    from downpour.algorithms.base import TrainingError
    from downpour.callbacks.checkpoint import Stopped
    from downpour.config import ConfigError

    full = bool((config.get("debug") or {}).get("traceback"))
    try:
        job()
    except Failed as failed:
        return failed.code
    except Stopped as stopped:
        if not quiet:
            say(f"stopped by {stopped}; the run is saved. To go on:\n  python src/train.py resume={directory}")
        return 128 + stopped.signal_number
    except ConfigError as error:
        if full:
            raise
        if not quiet:
            say(str(error))
        return BAD_INPUT
    except TrainingError as error:
        if full:
            raise
        if not quiet:
            say(f"{error}\n{_last_checkpoint(directory)}")
        return FAILED
    except OSError as error:
        if full:
            raise
        if not quiet:
            say(_explain_disk(error, directory))
        return FAILED
    except Exception as error:
        if full:
            raise
        import logging

        logging.getLogger(__name__).debug("", exc_info=error)
        _write_traceback(directory)
        if not quiet:
            say(f"{type(error).__name__}: {error}\nthe traceback is in {directory}/train.log; debug=full shows it here")
        return FAILED
    return 0


def say(message: str) -> None:
    """One message to the person, on stderr."""
    print(f"error: {message}", file=sys.stderr)


def _last_checkpoint(directory: Path) -> str:
    last = directory / "checkpoints" / "last.ckpt"
    return f"the last checkpoint before is {last}" if last.exists() else "there is no checkpoint yet"


def _explain_disk(error: OSError, directory: Path) -> str:
    where = error.filename or directory
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = f"{_last_checkpoint(directory)}; free space, then resume"
        return f"hydra.run.dir={directory}: the disk is full ({where}); {advice}"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"hydra.run.dir={directory}: cannot write {where} ({error.strerror}); name another directory"
    return f"{error}"


def _write_traceback(directory: Path) -> None:
    import traceback

    try:
        with open(directory / "train.log", "a") as file:
            traceback.print_exc(file=file)
    except OSError:
        pass


def explain_composition(error: Exception) -> str:
    """Hydra's or OmegaConf's complaint, as the key, the value and what to do."""
    from downpour.config import nearest

    text = str(error).strip()
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found.group(1)
        value = next((o.partition("=")[2] for o in sys.argv[1:] if o.lstrip("+~").startswith(f"{key}=")), "")
        return f"{key}={value}: there is no such key{nearest(key, known_keys())}"
    if found := re.search(r"In '([^']*)': Could not find '([^']+)'", text):
        group, _, name = found.group(2).rpartition("/")
        if answer := sweeps.missing(group, name):
            return answer
        options = sorted(p.stem for p in (Path(CONF) / group).glob("*.yaml"))
        return f"{group}={name}: there is no such option{nearest(name, options)} (there are: {', '.join(options)})"
    return text.splitlines()[0] + "".join(f"\n  {line.strip()}" for line in text.splitlines()[1:3] if line.strip())


def known_keys() -> list[str]:
    """Every dotted key of the default configuration, with the groups chosen on the command line."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    groups = {p.name for p in Path(CONF).iterdir() if p.is_dir()}
    chosen = [o for o in sys.argv[1:] if o.partition("=")[0] in groups and "," not in o]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(CONF, version_base="1.3"):
            composed = compose("train", overrides=chosen)
    except (HydraException, OmegaConfBaseException):
        return sorted(groups)
    return sorted(groups) + _dotted(OmegaConf.to_container(composed), "")


def _dotted(node: Any, prefix: str) -> list[str]:
    if not isinstance(node, dict):
        return []
    return [k for name, v in node.items() for k in (f"{prefix}{name}", *_dotted(v, f"{prefix}{name}."))]
