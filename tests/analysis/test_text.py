"""Numbers and tables as people read them."""

import math

from downpour.analysis.text import aligned, spaced


def test_thousands_are_set_apart() -> None:
    assert [spaced(number) for number in (7, 50_000, 1234567.8, math.nan)] == ["7", "50 000", "1 234 568", "-"]


def test_a_table_has_its_words_at_the_left_and_its_numbers_at_the_right() -> None:
    rows = [["name", "mean"], ["a", "1"], ["longer", "10.5"]]
    assert aligned(rows, left=1) == ["| name   | mean |", "|--------|-----:|", "| a      |    1 |", "| longer | 10.5 |"]
    assert aligned(rows)[1:3] == ["|-------:|-----:|", "|      a |    1 |"]
