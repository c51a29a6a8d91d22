"""`python src/train.py --help`: the groups, and every setting with its value and description."""

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
  python src/train.py -m algo=dqn,double_dqn seed=range(5)     one job per combination, in outputs/multirun/
  python src/train.py resume=DIR                               continue a run exactly where it was saved
"""
FOOT = """\
Other options have other settings: --help algo=q_learning lists those. hydra.run.dir=DIR sets the run directory,
+KEY=VALUE adds an argument that is not listed, debug=full prints tracebacks.
  --cfg job prints the configuration as YAML, --info says where each value comes from, --hydra-help lists the rest.
"""


def page(overrides: Sequence[str]) -> str:
    """The whole page, for the configuration that these overrides compose."""
    config = composed(overrides)
    choices: Any = OmegaConf.to_container(config.hydra.runtime.choices)
    plain: Any = OmegaConf.to_container(config)
    del plain["hydra"]
    notes = _file_notes("", "train", "")
    for group, option in choices.items():
        notes |= _file_notes(*_placed(group), option) if option and not group.startswith("hydra/") else {}
    lines = [HEAD, "Groups and their options (chosen: *)", ""]
    lines += [_group(name, choices.get(name)) for name in groups() if options_of(name)]
    lines += ["", "Settings, with their values", ""]
    lines += _settings({k: v for k, v in plain.items() if not isinstance(v, dict)}, notes)
    for name in sorted(name for name, node in plain.items() if isinstance(node, dict)):
        if settings := _settings(plain[name], notes, f"{name}."):
            lines += ["", _title(name, choices.get(name)), *settings]
    return "\n".join([*lines, "", FOOT])


def _group(name: str, chosen: Any) -> str:
    options = " ".join(f"{option}*" if option == chosen else option for option in options_of(name))
    return textwrap.fill(options, WIDTH, initial_indent=f"  {name:<20}", subsequent_indent=" " * 22)


def _title(group: str, option: Any) -> str:
    path = CONF / group / f"{option}.yaml"
    first = path.read_text().partition("\n")[0] if path.is_file() else ""
    return f"{group}={option}" + (f": {first.removeprefix('# ')}" if first.startswith("# ") else "")


def _settings(node: Mapping[str, Any], notes: Mapping[str, str], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            lines += _settings(value, notes, f"{key}.")
        elif name != "_target_":
            typed = f"  {key}={_value(value)}"
            begin = f"{typed:<{COLUMN}}  "
            note = textwrap.fill(notes.get(key, ""), WIDTH, initial_indent=begin, subsequent_indent=INDENT)
            lines.append(note or typed)
    return lines


def _value(value: Any) -> str:
    if isinstance(value, list | dict):
        return str(value).replace("'", "").replace(" ", "")
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def _placed(choice: str) -> tuple[str, str | None]:
    """(group, package) of a key of Hydra's choices: `group`, or `group@package`."""
    group, _, package = choice.partition("@")
    return group, package.removeprefix("_global_").removeprefix(".") if package else None


def _file_notes(group: str, package: str | None, option: str) -> dict[str, str]:
    """Full dotted key -> the comment beside it, in an option's file and in those that it builds on.

    Args:
        group: its folder; empty for the main file, whose name is then `package`.
        package: where its keys go; None leaves that to the file.
    """
    path = CONF / group / f"{option}.yaml" if group else CONF / f"{package}.yaml"
    if not path.is_file():
        return {}
    text = path.read_text()
    header = re.match(r"# @package ([\w.]+)", text)
    if not group:
        package = ""
    elif package is None:
        package = header.group(1).removeprefix("_global_") if header else group.replace("/", ".")
    content: Any = OmegaConf.to_container(OmegaConf.load(path)) or {}
    notes: dict[str, str] = {}
    for base in content.get("defaults", []) if group else []:
        notes |= _file_notes(group, package, base) if isinstance(base, str) else {}
    return notes | {f"{package}.{key}".strip("."): note for key, note in _notes(text).items()}


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
