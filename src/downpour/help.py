"""`python src/train.py --help`: the groups, and every setting as it is typed, its value and what it does."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from downpour.composition import CONF, composed, groups, options_of

WIDTH, COLUMN = 120, 48
INDENT = " " * (COLUMN + 4)

HEAD = """\
Downpour: reinforcement and supervised learning, composed on the command line.

  python src/train.py [GROUP=OPTION ...] [KEY=VALUE ...]       one run, in outputs/train/<date>/<time>-<algorithm>/
  python src/train.py -m algo=dqn,double_dqn seed=range(5)     a job for each combination, in outputs/multirun/
  python src/train.py resume=DIR                               go on with a run exactly where it was saved
"""
FOOT = """\
A group's other options have other settings: --help algo=q_learning shows those. hydra.run.dir=DIR names the run's
directory, +KEY=VALUE gives an argument that is not listed, debug=full shows tracebacks.
  --cfg job prints the configuration as YAML, --info says where each value comes from, --hydra-help lists the rest.
"""


def page(overrides: Sequence[str]) -> str:
    """The whole page, for the configuration that these overrides compose."""
    config = composed(overrides)
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    plain: Any = OmegaConf.to_container(config)
    del plain["hydra"]
    assert isinstance(choices, dict)
    lines = [HEAD, "Groups and their options (chosen: *)", ""]
    lines += [_group(name, choices.get(name)) for name in groups() if options_of(name)]
    lines += ["", "Settings, with their values", ""]
    notes = _notes((CONF / "train.yaml").read_text())
    lines += _settings({k: v for k, v in plain.items() if not isinstance(v, dict)}, "", notes)
    for name in sorted(name for name, node in plain.items() if isinstance(node, dict)):
        settings = _settings(plain[name], f"{name}.", _option_notes(name, choices.get(name)))
        if settings:
            lines += ["", _title(name, choices.get(name)), *settings]
    return "\n".join([*lines, "", FOOT])


def _group(name: str, chosen: Any) -> str:
    options = " ".join(f"{option}*" if option == chosen else option for option in options_of(name))
    return textwrap.fill(options, WIDTH, initial_indent=f"  {name:<12}", subsequent_indent=" " * 14)


def _title(group: str, option: Any) -> str:
    path = CONF / group / f"{option}.yaml"
    first = path.read_text().partition("\n")[0] if path.is_file() else ""
    return f"{group}={option}" + (f": {first.removeprefix('# ')}" if first.startswith("# ") else "")


def _settings(node: Mapping[str, Any], prefix: str, notes: Mapping[str, str], path: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in node.items():
        where = f"{path}{name}"
        if isinstance(value, Mapping) and value:
            lines += _settings(value, prefix, notes, f"{where}.")
        elif name != "_target_":
            typed = f"  {prefix}{where}={_value(value)}"
            note = notes.get(where, "")
            lines.append(
                textwrap.fill(note, WIDTH, initial_indent=f"{typed:<{COLUMN}}  ", subsequent_indent=INDENT) or typed
            )
    return lines


def _value(value: Any) -> str:
    if isinstance(value, list | dict):
        return str(value).replace("'", "").replace(" ", "")
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def _option_notes(group: str, option: Any) -> dict[str, str]:
    """The comments beside an option's settings, those of the options it builds on included."""
    path = CONF / group / f"{option}.yaml"
    if not path.is_file():
        return {}
    content: Any = OmegaConf.to_container(OmegaConf.load(path)) or {}
    bases = [base for base in content.get("defaults", []) if isinstance(base, str)]
    notes: dict[str, str] = {}
    for base in bases:
        notes |= _option_notes(group, base)
    return notes | _notes(path.read_text())


def _notes(yaml_text: str) -> dict[str, str]:
    """Dotted key -> the comment on its line."""
    notes: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in yaml_text.splitlines():
        found = re.match(r"( *)([\w]+):(.*)", line)
        if found is None:
            continue
        indent, name = len(found.group(1)), found.group(2)
        above = [(i, n) for i, n in above if i < indent] + [(indent, name)]
        _, mark, comment = found.group(3).partition(" # ")
        if mark:
            notes[".".join(n for _, n in above)] = comment.strip()
    return notes
