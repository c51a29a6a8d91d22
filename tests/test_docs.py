"""The documentation agrees with the code: its commands are valid, its links lead somewhere, its tables are complete."""

import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from tests.training import composed

from downpour.composition import options_of
from downpour.validation import validate

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = set(re.findall(r"`conf/\w+/(\w+)\.yaml`\n", "".join(page.read_text() for page in PAGES)))  # not in conf/
NOT_HERE = ("resume", "resume_sweep", "init_from")  # keys that name directories of the reader's
GPU = ("trainer=gpu", "trainer=ddp_4gpu", "trainer=fsdp_4gpu", "trainer.accelerator=gpu")


def commands() -> set[tuple[str, ...]]:
    """The overrides of every command line of train.py that the documentation shows."""
    found = set()
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in [*re.findall(r"^    (.*)$", text, re.MULTILINE), *re.findall(r"`(python [^`]*)`", text)]:
            words = shlex.split(line.split("src/train.py", 1)[-1], comments=True) if "src/train.py" in line else []
            found.add(tuple(word for word in words if "=" in word))
    return found


def first_of(overrides: tuple[str, ...]) -> list[str]:
    """One job of a sweep: of each override its first value."""
    first = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, text = override.get_key_element(), override.input_line
        if key.startswith("hydra") or key in NOT_HERE or override.value() == "search_double_dqn":
            continue
        if override.is_sweep_override():
            discrete = override.is_discrete_sweep()
            value = next(override.sweep_iterator()) if discrete else override.value().start  # type: ignore[union-attr]
            text = f"{key}={value}"
        first.append(text)
    return first


@pytest.mark.parametrize("overrides", sorted(commands()), ids=" ".join)
def test_a_command_is_valid(overrides: tuple[str, ...]) -> None:
    """Its groups, options and keys exist, and its values pass their checks."""
    words = first_of(overrides)
    if EXAMPLES & {word.partition("=")[2] for word in words}:
        return  # trained in test_readme.py
    config = composed(*words)
    if not set(GPU) & set(words):
        validate(config)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), link


def test_every_option_is_listed() -> None:
    """docs/configuration.md has a section for each group that names all its options."""
    text = (ROOT / "docs/configuration.md").read_text()
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", text, re.MULTILINE | re.DOTALL))
    groups = [path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "hydra"]
    assert sections.keys() == set(groups) and len(groups) > 10
    for group in groups:
        listed = sections[group] if group != "algo" else (ROOT / "README.md").read_text()
        missing = [option for option in options_of(group) if f"`{option}`" not in listed]
        assert not missing, f"{group}: {missing}"


def test_messages_of_troubleshooting_are_those_of_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    page = (ROOT / "docs/troubleshooting.md").read_text()
    tables = re.findall(r"^\| message \|.*\n\|.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    messages = re.findall(r"^\| (`.*?`) \|", "".join(tables), re.MULTILINE)
    assert len(messages) > 15
    for message in re.findall(r"`([^`]+)`", " ".join(messages)):
        if message.startswith("zsh"):
            continue
        for part in re.split(r"\b[NX]\b|\.\.\.|=", message):  # which stand for what the code fills in
            assert part.strip(" ,:;") in code, message
