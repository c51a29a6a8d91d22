"""Each algorithm has a page, and all pages are built alike."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "algorithms").glob("*.md"))
HEADINGS = ["Update rule", "Usage", "Implementation details", "Options", "Metrics", "Results"]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_page_has_the_headings_of_all(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == HEADINGS
    assert any(line.startswith("### Differences from the ") for line in lines)


def test_every_algorithm_is_on_a_page() -> None:
    text = "\n".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    for path in (ROOT / "conf" / "algo").glob("[!_]*.yaml"):
        assert f"algo={path.stem}" in text, path.stem
