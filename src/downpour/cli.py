"""The command line of training: Hydra composes, `jobs` runs, and errors become one short message.

Heavy imports are deferred, so that --help is fast.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from downpour import composition, composition_errors, sweeps
from downpour.config import ConfigError
from downpour.failures import BAD_INPUT, FAILED, Failed, explain, has_trained, say

CONF = str(composition.CONF)


def train() -> None:
    """`python src/train.py`.

    Exit code 0: trained; 1: failed during training; 2: invalid input; 128 + N: stopped by signal N.
    """
    # Hydra would print and exit; its messages name its internals instead of the key.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Before torch is imported: its store warns, with a C++ stack, of every node that leaves before another.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    sweeps.register()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # when another rank fails, tidy up before the end
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # argparse accepts settings on one side of a flag only.
    arguments = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    sys.argv[1:] = arguments
    try:
        if {"-h", "--help"} & set(arguments):
            from downpour import help

            print(help.page([o for o in arguments if not o.startswith("-")]))
            return
        _check_flags(arguments)
        _check_resume(arguments)
        sys.argv += _typed_before(arguments)
        hydra.main(version_base="1.3", config_path=CONF, config_name="train")(train_task)()
    except Failed as told:  # a job of a multirun
        sys.exit(told.code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # train.py --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except Exception as error:
        if "debug=full" in arguments:
            raise
        failed = _explain_start(error)
        _tell(failed)
        sys.exit(failed.code)


def train_task(composed: DictConfig) -> float | None:
    """One job: a single run, or one of a multirun. Returns what a sweeper optimizes."""
    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir).resolve()
    single = hydra_config.mode == RunMode.RUN
    fresh = single and not any(directory.iterdir())
    failed: Failed | None = None
    began = False
    config: Any = {}
    try:
        from downpour import jobs

        choices = {name: choice for name, choice in hydra_config.runtime.choices.items() if "/" not in name}
        config = OmegaConf.to_container(composed, resolve=True)
        return jobs.run(config, directory, list(hydra_config.overrides.task), choices)
    except (Exception, KeyboardInterrupt) as error:
        if OmegaConf.select(composed, "debug.traceback") and (error.__cause__ or not isinstance(error, Failed)):
            traceback.print_exc()
        began = isinstance(error, Failed)  # it had locked the directory and written to it
        failed = _explain_start(error) if isinstance(error, OmegaConfBaseException) else explain(error, directory)
    finally:
        if fresh:
            refused = began and failed is not None and failed.code == BAD_INPUT
            _leave(directory, discard=refused and _is_first_node(config) and not has_trained(directory))
    _tell(failed, "" if single else f"job {hydra_config.job.num} ({' '.join(hydra_config.overrides.task)}): ")
    if single or failed.code > 128:  # an exception would have Hydra print a second message; a signal ends a sweep too
        _exit(failed.code)
    raise failed


def is_leader() -> bool:
    """Whether this process reports for the run: rank 0 if an external torchrun started several."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0"


def _is_first_node(config: Any) -> bool:
    """Whether this node may remove the run directory, which the nodes may share."""
    trainer = config.get("trainer")
    return not isinstance(trainer, dict) or trainer.get("node_rank", 0) == 0


def _tell(failed: Failed, prefix: str = "") -> None:
    if is_leader():
        say(failed, prefix)
    elif not failed.stopped and not failed.lost:
        time.sleep(5)  # if rank 0 reports the same error, torchrun ends this process meanwhile
        say(failed, f"rank {os.environ['RANK']}: {prefix}")


def _exit(code: int) -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from downpour.worker import leave

        leave(code)
    sys.exit(code)


def _check_flags(arguments: list[str]) -> None:
    """Hydra would print all its flags."""

    def refuse(message: str) -> None:
        raise ConfigError(message=f"{message} (settings have the form key=value; see --help)")

    parser: Any = get_args_parser()
    parser.error = refuse
    parser.parse_args(arguments)


def _typed_before(arguments: list[str]) -> list[str]:
    """What a resumed sweep was started with."""
    directory = next((o.removeprefix("resume_sweep=") for o in arguments if o.startswith("resume_sweep=")), "null")
    if directory in ("", "null"):
        return []
    from downpour.resume_sweep import typed_before

    return typed_before(directory, arguments)


def _check_resume(arguments: list[str]) -> None:
    """Hydra would create a missing directory instead of reporting it."""
    for directory in (o.removeprefix("resume=") for o in arguments if o.startswith("resume=")):
        is_plain = not set(directory) & set(",'\"$\\()[]{}") and directory not in ("", "null")
        if is_plain and not (Path(directory) / "config.yaml").is_file():
            raise ConfigError("resume", directory, "is not a run directory: it has no config.yaml")


def _explain_start(error: BaseException) -> Failed:
    """The message for errors before a job has started."""
    if isinstance(error, ConfigError):
        return Failed(BAD_INPUT, str(error))
    if isinstance(error, HydraException | OmegaConfBaseException | ValueError):
        return Failed(BAD_INPUT, composition_errors.explain(error, sys.argv[1:]))
    if isinstance(error, OSError):  # Hydra creates the run directory
        place = error.filename or error
        return Failed(FAILED, f"hydra.run.dir: cannot create {place} ({error.strerror}); choose another directory")
    return Failed(FAILED, f"{type(error).__name__}: {error}\ndebug=full shows the traceback")


def _leave(directory: Path, *, discard: bool) -> None:
    """Remove the directory of a run that never started, and empty parents in outputs/."""
    if discard and is_leader():
        shutil.rmtree(directory, ignore_errors=True)
    outputs = Path.cwd() / "outputs"
    with contextlib.suppress(OSError):  # not empty: it is a run's
        if directory.exists():
            directory.rmdir()
        for above in directory.parents:
            if above == outputs or outputs in above.parents:
                above.rmdir()
