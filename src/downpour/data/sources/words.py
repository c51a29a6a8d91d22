"""Columns of words: numbered as they are read, unit vectors in the end."""

from typing import Any

import numpy as np

Words = dict[str, dict[str, int]]
"""Of each column of words, its words and their numbers."""


class HoldWords(Exception):
    """Columns that were taken for numbers hold words."""

    def __init__(self, columns: list[str]):
        self.columns = columns
        super().__init__(columns)


def numbered(column: Any, known: dict[str, int]) -> np.ndarray:
    """The numbers [rows] of a pandas column's words, NaN where there is none; `known` takes in the new ones."""
    for word in column.dropna().unique():
        known.setdefault(str(word), len(known))
    numbers = column.map(lambda word: known.get(word, np.nan), na_action="ignore")
    return numbers.to_numpy(np.float32, na_value=np.nan)


def unit_vectors(values: np.ndarray, inputs: list[str], words: Words) -> tuple[np.ndarray, list[str]]:
    """Replace columns of word numbers by unit vectors, words in alphabetical order; a hole stays one."""
    if not words:
        return values, inputs
    width = len(inputs) + sum(len(known) - 1 for known in words.values())
    wide = np.empty((len(values), width), np.float32)
    names: list[str] = []
    for column, name in zip(values.T, inputs, strict=True):
        if name not in words:
            wide[:, len(names)] = column
            names.append(name)
            continue
        for word in sorted(words[name]):
            wide[:, len(names)] = column == words[name][word]
            wide[np.isnan(column), len(names)] = np.nan
            names.append(f"{name}={word}")
    return wide, names
