"""Each algorithm has a page, and all pages are built alike."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "algorithms").glob("*.md"))
HEADINGS = ("Command", "Rule", "Differences from the ", "Options", "Metrics", "Results")


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_page_has_the_headings_of_all(page: Path) -> None:
    found = [line.removeprefix("## ") for line in page.read_text().splitlines() if line.startswith("## ")]
    assert len(found) == len(HEADINGS)
    assert all(line.startswith(heading) for line, heading in zip(found, HEADINGS, strict=True)), found


def test_every_algorithm_is_on_a_page() -> None:
    text = "\n".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    for path in (ROOT / "conf" / "algo").glob("[!_]*.yaml"):
        assert f"algo={path.stem}" in text, path.stem
