"""CSV files: types, holes, faults named by line and column, memory."""

import logging
from pathlib import Path

import numpy as np
import pytest
from tests.peak import peak_of
from tests.supervised import SMALL, train

from downpour.config import ConfigError
from downpour.data import DatasetData
from downpour.data.sources import Table
from downpour.run import Run

GOOD = "width,color,kind\n1.5,red,a\n2,blue,b\n-3e1,red,a\n"


def table(tmp_path: Path, text: str, **options: object) -> Table:
    path = tmp_path / "t.csv"
    path.write_text(text)
    return Table(path=str(path), **options)  # type: ignore[arg-type]


def test_words_become_unit_vectors_and_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = table(tmp_path, GOOD).load().check()
    assert found.columns == ["width", "color=blue", "color=red"] and found.classes == ("a", "b")
    assert np.array_equal(found.inputs, np.array([[1.5, 0, 1], [2, 1, 0], [-30, 0, 1]], np.float32))
    assert np.array_equal(found.targets, [0, 1, 0])
    assert "3 rows, 1 columns of numbers; color: 2 words; target: 2 classes (a, b)" in caplog.text


def test_the_target_may_stand_anywhere_and_be_a_number(tmp_path: Path) -> None:
    found = table(tmp_path, GOOD, target="width").load()
    assert found.classes is None and np.allclose(found.targets[:, 0], [1.5, 2, -30])
    labels = table(tmp_path, "x,y\n1,7\n2,3\n3,7\n").load()
    assert labels.classes == ("3", "7") and np.array_equal(labels.targets, [1, 0, 1])
    numbers = table(tmp_path, "x,y\n1,7\n2,3\n3,7\n", task="regression").load()
    assert numbers.classes is None and np.array_equal(numbers.targets[:, 0], [7, 3, 7])


def test_a_word_that_comes_late_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("downpour.data.sources.table.ROWS_AT_ONCE", 2)
    found = table(tmp_path, "x,y\n1,a\n2,b\n3,a\nmany,b\n").load()
    assert found.columns == ["x=1", "x=2", "x=3", "x=many"]


def test_quoted_commas_and_line_ends_are_values(tmp_path: Path) -> None:
    found = table(tmp_path, 'x,y\n1,"a, or b"\n2,"c"\n').load()
    assert found.classes == ("a, or b", "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,z\n1,2,3\n4,5\n", r"t\.csv, line 3, which begins with '4': 2 values where .* 3 columns \(z and what"),
        ("x,y\n1,2\n3,4,5\n", r"line 3, which begins with '3': 3 values where the header has 2 columns \(too many\)"),
        ('x,y\n1,"2"\n3\n', r"line 3, .*: 1 values where the header has 2"),
        ("x,y\n1,2\n\n3,4\n", r"t\.csv, line 3: an empty row"),
        ("x,y\n1,2\n,4\n", r"t\.csv, line 3, column x: a value is missing \(missing values in total: x 1\)"),
        ("x,y\n1,2\n3,\n", r"t\.csv, line 3, column y: the target is missing"),
        ("x,y\n1,2\ninf,3\n", r"t\.csv, line 3, column x: inf is not a finite number"),
        ("x,y\n1,2\n1,-inf\n", r"t\.csv, line 3, column y: -inf is not a finite number"),
        ('x,n,y\n1,"two\nlines",2\n3,one,\n', r"t\.csv, line 4, column y: the target is missing"),
        ("x,y\n", r"has no rows"),
        ("x,x\n1,2\n", r"two columns named 'x'"),
        ("y\n1\n2\n", r"no column besides the target"),
    ],
)
def test_faults_are_named_by_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        table(tmp_path, text).load().check()


def test_a_row_that_is_dropped_does_not_move_the_lines_below(tmp_path: Path) -> None:
    text = "x,w,y\n1,5,a\n,6,b\n3,7,a\n4,inf,b\n"
    found = table(tmp_path, text, missing="drop").load()
    assert len(found.inputs) == 3
    with pytest.raises(ConfigError, match=r"t\.csv, line 5, column w: inf is not a finite number"):
        found.check()


def test_inputs_are_what_is_chosen(tmp_path: Path) -> None:
    text = "id,width,color,height,kind\n" + "".join(f"n{i},{i},red,{2 * i},{'ab'[i % 2]}\n" for i in range(1200))
    with pytest.raises(ConfigError, match=r"column 'id' has more than 1000 .*with data\.source\.ignore=\[id\]"):
        table(tmp_path, text).load()
    assert table(tmp_path, text, ignore=["id", "color"]).load().columns == ["width", "height"]
    found = table(tmp_path, text, columns=["height", "width"]).load()
    assert found.columns == ["width", "height"] and np.array_equal(found.inputs[3], [3, 6])
    with pytest.raises(ConfigError, match=r"data\.source\.columns=widht: .*did you mean width\?"):
        table(tmp_path, text, columns=["widht"]).load()
    with pytest.raises(ConfigError, match=r"data\.source\.ignore=kind: is the target"):
        table(tmp_path, text, ignore=["kind"]).load()
    with pytest.raises(ConfigError, match="no column besides the target that is not ignored"):
        table(tmp_path, text, columns=["width"], ignore=["width"]).load()


@pytest.mark.parametrize(("name", "separator"), [("semicolon", ";"), ("tab", "\t"), ("pipe", "|")])
def test_other_separators(tmp_path: Path, name: str, separator: str) -> None:
    text = GOOD.replace(",", separator)
    found = table(tmp_path, text, separator=name).load().check()
    assert found.columns == ["width", "color=blue", "color=red"] and found.inputs[2, 0] == -30
    with pytest.raises(ConfigError, match=r"line 3, .*: 2 values where the header has 3"):
        table(tmp_path, f"a{separator}b{separator}c\n1{separator}2{separator}3\n4{separator}5\n", separator=name).load()


def test_all_columns_of_words_are_found_in_one_more_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas

    readings, read = [], pandas.read_csv
    monkeypatch.setattr(pandas, "read_csv", lambda *args, **kw: readings.append(1) or read(*args, **kw))
    found = table(tmp_path, "a,b,c,y\nred,on,x,1\nblue,off,y,2\n").load()
    assert found.columns is not None and len(found.columns) == 6 and len(readings) == 2


def test_what_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.source\.target=widht: .*did you mean width\?"):
        table(tmp_path, GOOD, target="widht").load()
    with pytest.raises(ConfigError, match="line 3, column kind: 'b' is not a number"):
        table(tmp_path, GOOD.replace("red,a", "red,1", 1), task="regression").load()
    with pytest.raises(ConfigError, match=r"data\.source\.path=.*there is no such file"):
        Table(path=str(tmp_path / "none.csv")).load()
    with pytest.raises(ConfigError, match="a row has 2 values, an image of 1 x 2 x 2 has 4"):
        table(tmp_path, "a,b,c\n1,2,x\n3,4,y\n", shape=[1, 2, 2]).load()


def test_rows_with_holes_can_be_dropped_or_filled_with_the_mean_of_the_training_rows(tmp_path: Path) -> None:
    rows = "".join(f"{'' if i % 7 == 0 else i},{i},{'ab'[i % 2]}\n" for i in range(40))
    dropped = table(tmp_path, "x,w,y\n" + rows, missing="drop").load()
    assert len(dropped.inputs) == len(dropped.targets) == 34 and np.isfinite(dropped.inputs).all()
    source = table(tmp_path, "x,w,y\n" + rows, missing="mean")
    for standardize in (True, False):
        stream = DatasetData(Run(tmp_path, 0, 10, 10, 0), source=source, standardize=standardize)
        train = [i for i in stream.rows["train"] if i % 7]
        expected = 0.0 if standardize else np.mean(train)
        assert float(stream.inputs[7, 0]) == pytest.approx(expected, abs=1e-5)


def test_a_run_learns_from_a_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 3))
    rows = "".join(f"{a:.4f},{b:.4f},{c:.4f},{'yes' if a > b else 'no'}\n" for a, b, c in x)
    table(tmp_path, "a,b,c,answer\n" + rows)
    options = ("data=csv", f"data.source.path={tmp_path / 't.csv'}", "total_gradient_steps=200", "optimizer.lr=5e-3")
    assert train(tmp_path / "run", *SMALL, *options)["test/accuracy"] > 0.9


@pytest.mark.slow
def test_reading_needs_less_than_twice_the_array(tmp_path: Path) -> None:
    rows, columns = 200_000, 100
    path = tmp_path / "large.csv"
    block = "".join(",".join(str((i * j) % 997) for j in range(columns)) + f",{'ab'[i % 2]}\n" for i in range(1000))
    with open(path, "w") as file:
        file.write(",".join(f"c{j}" for j in range(columns)) + ",y\n")
        for _ in range(rows // 1000):
            file.write(block)
    size = 4 * rows * columns
    table(tmp_path, GOOD).load()  # imports pandas, which is not what is measured
    source = Table(path=str(path))
    assert peak_of(lambda: DatasetData(Run(tmp_path, 0, 10, 10, 0), source=source)) < 2 * size
    path.unlink()
