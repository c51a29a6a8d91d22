"""Evaluates a finished run: returns of its policy, with videos, or metrics of its test split."""

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from downpour.config import ConfigError, check_arguments
from downpour.evaluation_settings import Settings
from downpour.settings import read_settings, show_help

SUMMARY = """
Evaluate a trained policy over whole episodes, exploration off, and print its returns; for a run on a data set, the
metrics and predictive uncertainty on the test split. Results are written to eval.json. The same seed gives the same
episodes (or dropout masks).

  python src/eval.py run=outputs/train/2026-11-22/15-04-05-double_dqn
  python src/eval.py run=outputs/train/2026-11-22/15-04-05-double_dqn episodes=20 seed=1 checkpoint=last video=true
  python src/eval.py run=outputs/train/2026-11-22/15-04-05-supervised dropout=monte_carlo samples=100

Settings, with their defaults:

"""


def main(arguments: Sequence[str], defaults: Path) -> int:
    """Run the command; returns its exit code: 0, or 2 with one message on stderr for what a person got wrong.

    Args:
        arguments: what was typed after the command's name.
        defaults: the YAML file with every setting, its default and its meaning.
    """
    if show_help(arguments, SUMMARY, defaults):
        return 0
    full = False
    try:
        typed = read_settings(arguments, defaults, "run=outputs/train/...")
        settings = Settings(**check_arguments(Settings, typed, ""))
        full = settings.traceback
        out = Path(settings.out or settings.run).expanduser()
        try:
            print(evaluate(settings, out))
        except OSError as error:
            raise ConfigError("out", out, f"cannot be written ({error.strerror or error}); choose another") from None
    except ConfigError as error:
        if full:
            raise
        print(f"eval: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        if full:
            raise
        print(f"eval: {type(error).__name__}: {error} (traceback=true shows where)", file=sys.stderr)
        return 1
    return 0


def evaluate(settings: Settings, out: Path) -> str:
    """Evaluate, write eval.json (and videos), and return what to print."""
    import torch

    from downpour import directory as directories

    directories.log_to(None)
    directory = Path(settings.run).expanduser()
    config = directories.read_config(directory, "run")
    torch.set_num_threads(config["trainer"].get("threads") or torch.get_num_threads())
    if config.get("env"):
        from downpour.evaluate_policy import measure
    else:
        from downpour.evaluate_test_split import measure
    found, text = measure(settings, directory, config, out)
    about = {"run": str(directory.resolve()), **found}
    about |= {"git_commit": directories.git_commit(), "versions": directories.versions()}
    directories.write_text(out / "eval.json", json.dumps(about, indent=2) + "\n")
    return f"{text}\neval: {out}/eval.json"
