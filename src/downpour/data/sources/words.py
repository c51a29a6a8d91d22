"""Categorical columns: words are numbered while reading, and one-hot encoded at the end."""

from typing import Any

import numpy as np

Words = dict[str, dict[str, int]]
"""Of each column of words, its words and their numbers."""


class HoldWords(Exception):
    """Columns that were read as numbers contain words."""

    def __init__(self, columns: list[str]):
        self.columns = columns
        super().__init__(columns)


def numbered(column: Any, known: dict[str, int]) -> np.ndarray:
    """The numbers [rows] of a pandas column's words, NaN if missing; new words are added to `known`."""
    for word in column.dropna().unique():
        known.setdefault(str(word), len(known))
    numbers = column.map(lambda word: known.get(word, np.nan), na_action="ignore")
    return numbers.to_numpy(np.float32, na_value=np.nan)


def unit_vectors(values: np.ndarray, inputs: list[str], words: Words) -> tuple[np.ndarray, list[str]]:
    """One-hot encode columns of word numbers, words in alphabetical order; missing values stay missing."""
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
