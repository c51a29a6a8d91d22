"""metrics.csv, episodes.csv and timing.csv: rows, new columns, and being cut back to an earlier state."""

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from downpour.loggers.files import RunFiles, Table


def content(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_appended(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv", ["step", "a"])
    table.append([{"step": 1, "a": 0.1}])
    table.append([{"step": 2, "a": 1e-30}, {"step": 3, "a": float("nan")}])
    assert (tmp_path / "t.csv").read_bytes() == b"step,a\n1,0.1\n2,1e-30\n3,nan\n"
    assert table.rows == 3


def test_a_new_name_is_a_new_column(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv", ["step"])
    table.append([{"step": 1}])
    table.append([{"step": 2, "b": 5.0}])
    table.append([{"step": 3, "c": 7.0, "b": 6.0}])
    assert (tmp_path / "t.csv").read_text() == "step,b,c\n1,,\n2,5.0,\n3,6.0,7.0\n"


def test_nothing_appended_still_makes_a_table(tmp_path: Path) -> None:
    Table(tmp_path / "t.csv", ["step", "return"]).append([])
    assert (tmp_path / "t.csv").read_text() == "step,return\n"


def test_floats_come_back_as_they_were(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1 / 3, 1e300, -0.0, 123456789.123456789]
    Table(tmp_path / "t.csv", ["v"]).append([{"v": value} for value in values])
    assert [float(row["v"]) for row in content(tmp_path / "t.csv")] == values


EVENTS = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "train/x", 'odd,"name"', "d\ne"]), st.floats(), max_size=3), max_size=6
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EVENTS, EVENTS, EVENTS)
def test_cut_back_it_is_what_it_was(
    tmp_path_factory: pytest.TempPathFactory, before: list, abandoned: list, after: list
) -> None:
    """A run killed and resumed writes, byte for byte, the file of one that was never killed."""
    folder = tmp_path_factory.mktemp("table")
    straight, resumed = Table(folder / "one.csv", ["step"]), Table(folder / "two.csv", ["step"])
    for table in (straight, resumed):
        table.append([{"step": 0}])
        for row in before:
            table.append([row])
    state = resumed.capture()
    for row in abandoned:
        resumed.append([row])
    again = Table(folder / "two.csv", ["step"])
    again.restore(state)
    for row in after:
        straight.append([row])
        again.append([row])
    assert (folder / "one.csv").read_bytes() == (folder / "two.csv").read_bytes()
    assert again.capture() == straight.capture()


def test_a_row_that_was_cut_short_is_cut_away(tmp_path: Path) -> None:
    """Killed in the middle of a write."""
    table = Table(tmp_path / "t.csv", ["step", "a"])
    table.append([{"step": 1, "a": 2.0}])
    state = table.capture()
    with open(tmp_path / "t.csv", "a") as file:
        file.write("2,0.")
    again = Table(tmp_path / "t.csv", ["step", "a"])
    again.restore(state)
    again.append([{"step": 2, "a": 3.0}])
    assert (tmp_path / "t.csv").read_text() == "step,a\n1,2.0\n2,3.0\n"


def run_files(tmp_path: Path, events: list[tuple[dict[str, Any], int]]) -> RunFiles:
    files = RunFiles(tmp_path, "env_steps")
    for metrics, step in events:
        files.log_metrics(metrics, step)
    return files


def test_times_are_kept_apart(tmp_path: Path) -> None:
    """metrics.csv must be equal for equal runs."""
    run_files(
        tmp_path,
        [
            ({"train/loss": 0.5, "time/learning": 0.3}, 100),
            ({"time/learning": 0.4}, 200),
            ({"eval/return_mean": 9.0}, 200),
        ],
    )
    assert (tmp_path / "metrics.csv").read_text() == ("env_steps,train/loss,eval/return_mean\n100,0.5,\n200,,9.0\n")
    assert (tmp_path / "timing.csv").read_text() == "env_steps,time/learning\n100,0.3\n200,0.4\n"


def test_all_tables_are_cut_back(tmp_path: Path) -> None:
    files = run_files(tmp_path, [({"train/loss": 0.5, "time/learning": 0.3}, 100)])
    files.episodes.append([{"env_steps": 7, "return": 1.0, "length": 3, "environment": 0}])
    state = files.capture()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    files.log_metrics({"eval/return_mean": 1.0, "time/learning": 0.1}, 200)
    files.episodes.append([{"env_steps": 9, "return": 2.0, "length": 3, "environment": 1}])
    again = RunFiles(tmp_path, "env_steps")
    again.restore(state)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert (tmp_path / "episodes.csv").read_text() == "env_steps,return,length,environment\n7,1.0,3,0\n"


def test_nothing_is_logged_twice_as_parameters(tmp_path: Path) -> None:
    files = RunFiles(tmp_path, "env_steps")
    files.log_hyperparams({"lr": 1})
    assert list(tmp_path.iterdir()) == []
    assert files.name == tmp_path.name
