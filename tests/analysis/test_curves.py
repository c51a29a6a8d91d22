"""Pictures: that they are real, and that what they draw is what was measured."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from tests.analysis.runs_factory import learning, training, write_run, write_supervised_run

from downpour.analysis import drawing
from downpour.analysis.configurations import group
from downpour.analysis.curves import MOST_CURVES, comparison, learning_curve
from downpour.analysis.runs import RunDirectory
from downpour.analysis.statistics import bootstrap_band


def colors_in(picture: Path) -> set[str]:
    """The palette's colours of which the picture has at least a hundred pixels."""
    pixels = imread(picture)[..., :3].reshape(-1, 3)
    return {c for c in drawing.PALETTE if (np.abs(pixels - to_rgb(c)).max(axis=1) < 0.02).sum() >= 100}


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def drawn(figure: Figure, start: str, panel: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the curve whose name starts so."""
    [line] = [line for line in figure.axes[panel].lines if str(line.get_label()).startswith(start)]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def test_learning_curve_is_a_real_picture(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluations=learning(0), returns=training(0))
    picture = learning_curve(run)
    assert picture == run / "curve.png"
    pixels = imread(picture)
    assert pixels.shape[0] >= 800 and pixels.shape[1] >= 1200
    assert {drawing.PALETTE[0], drawing.PALETTE[1]} <= colors_in(picture)  # training mean, evaluation
    assert not [path for path in run.iterdir() if path.name.startswith(".")]  # nothing left of writing it


def test_learning_curve_says_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Figure] = []
    monkeypatch.setattr("downpour.analysis.curves.save", lambda figure, path: shown.append(figure) or path)
    learning_curve(write_run(tmp_path / "run", seed=0, evaluations=learning(0), returns=training(0)))
    [figure] = shown
    axes = figure.axes[0]
    assert axes.get_title() == "double_dqn on CartPole-v1, seed 0"
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "environment steps",
        "return (sum of rewards of an episode)",
    )
    assert texts(figure) == ["training episode", "mean of 100 episodes", "evaluation, mean ± std of 10"]
    x, y = drawn(figure, "mean of 100")
    returns = training(0)
    assert y[-1] == pytest.approx(np.mean(returns[-100:])) and len(x) == len(returns)
    np.testing.assert_allclose(drawn(figure, "evaluation")[1], [value for _, value in learning(0)])


def test_supervised_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_supervised_run(tmp_path / "run")
    assert {drawing.PALETTE[0], drawing.PALETTE[1]} <= colors_in(learning_curve(run))
    shown: list[Figure] = []
    monkeypatch.setattr("downpour.analysis.curves.save", lambda figure, path: shown.append(figure) or path)
    learning_curve(run)
    loss, accuracy = shown[0].axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy (fraction)")
    assert loss.get_yscale() == "log" and accuracy.get_xlabel() == "gradient steps"
    assert texts(shown[0]) == ["training", "evaluation"]
    assert len(drawn(shown[0], "evaluation")[0]) == 6


@pytest.mark.parametrize("evaluations", [(), ((100, 9.5),), ((0, 1.0),)])
@pytest.mark.parametrize("returns", [(), (9.0,)])
@pytest.mark.filterwarnings("error")
def test_runs_that_have_hardly_begun(
    tmp_path: Path, evaluations: tuple[tuple[int, float], ...], returns: tuple[float, ...]
) -> None:
    run = write_run(tmp_path / "run", evaluations=evaluations, returns=returns, status=None)
    assert imread(learning_curve(run)).std() > 0.01


@pytest.mark.filterwarnings("error")
def test_diverged_values_do_not_break_a_picture(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluations=[(1000, 5.0), (2000, float("nan")), (3000, float("inf"))])
    assert imread(learning_curve(run)).std() > 0.01
    figure = comparison(group([RunDirectory(run)]))
    np.testing.assert_array_equal(drawn(figure, "double_dqn")[1], [5.0])


def test_comparison_draws_mean_and_interval_over_seeds(tmp_path: Path) -> None:
    runs = []
    for algo in ("dqn", "double_dqn"):
        for seed in range(5):
            path = tmp_path / f"{algo}-{seed}"
            evaluations = [(step, float(step * (1 + seed) + (algo == "dqn"))) for step in (10, 20, 30)]
            runs.append(
                write_run(
                    path,
                    overrides=[f"algo={algo}"],
                    choices={"algo": algo},
                    seed=seed,
                    evaluations=evaluations,
                )
            )
    figure = comparison(group([RunDirectory(run) for run in runs]))
    assert texts(figure) == ["algo=double_dqn (5 seeds)", "algo=dqn (5 seeds)"]
    x, y = drawn(figure, "algo=double_dqn")
    np.testing.assert_array_equal(x, [10, 20, 30])
    np.testing.assert_allclose(y, [30, 60, 90])  # mean over 1..5 times the step
    low, high = bootstrap_band(np.outer(np.arange(1, 6), x).astype(float), resamples=2000)
    outline = figure.axes[0].collections[0].get_paths()[0].vertices
    assert {*np.round(low, 6), *np.round(high, 6)} <= {*np.round(outline[:, 1], 6)}
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == (
        "environment steps",
        "evaluation return",
        "CartPole-v1",
    )


def test_beyond_the_shortest_run_there_is_no_interval(tmp_path: Path) -> None:
    lengths = {0: (10, 20), 1: (10, 20, 30, 40), 2: (10, 20, 30)}
    runs = [
        write_run(tmp_path / str(s), seed=s, evaluations=[(x, float(s)) for x in steps]) for s, steps in lengths.items()
    ]
    figure = comparison(group([RunDirectory(run) for run in runs]))
    shared, partial = (np.asarray(line.get_ydata()) for line in figure.axes[0].lines)
    np.testing.assert_array_equal(shared, [1.0, 1.0, np.nan, np.nan])
    np.testing.assert_array_equal(partial, [np.nan, np.nan, 1.5, 1.0])
    assert figure.axes[0].collections[0].get_paths()[0].vertices[:, 0].max() == 20


def test_one_seed_is_drawn_without_an_interval(tmp_path: Path) -> None:
    figure = comparison(group([RunDirectory(write_run(tmp_path / "run"))]))
    assert texts(figure) == ["double_dqn on CartPole-v1 (1 seed)"]
    assert figure.legends[0].get_title().get_text() == ""


def test_a_panel_for_each_environment_with_one_colour_an_algorithm(tmp_path: Path) -> None:
    runs = []
    for env, name in (("cartpole", "CartPole-v1"), ("acrobot", "Acrobot-v1")):
        for algo in ("dqn", "double_dqn"):
            for seed in range(2 if env == "acrobot" else 3):
                choices = {"algo": algo, "env": env}
                path = tmp_path / f"{env}-{algo}-{seed}"
                typed = [f"algo={algo}", f"env={env}", f"seed={seed}"]
                runs.append(write_run(path, overrides=typed, choices=choices, seed=seed, config={"env": {"id": name}}))
    figure = comparison(group([RunDirectory(run) for run in runs]))
    assert [axes.get_title() for axes in figure.axes] == ["Acrobot-v1", "CartPole-v1"]
    assert texts(figure) == ["algo=double_dqn (2 to 3 seeds)", "algo=dqn (2 to 3 seeds)"]
    colors = [{str(line.get_label()): line.get_color() for line in axes.lines} for axes in figure.axes]
    assert colors[0]["algo=dqn (2 to 3 seeds)"] == colors[1]["algo=dqn (2 to 3 seeds)"]


def test_many_configurations_name_the_best(tmp_path: Path) -> None:
    runs = []
    for number in range(14):
        runs.append(
            write_run(tmp_path / str(number), overrides=[f"algo.x={number}"], evaluations=[(10, float(number))])
        )
    figure = comparison(group([RunDirectory(run) for run in runs]))
    assert texts(figure) == ["4 others", *(f"x={number} (1 seed)" for number in range(4, 14))]
    assert len(texts(figure)) == MOST_CURVES + 1


def test_every_curve_differs_from_every_other() -> None:
    assert len({drawing.style_of(index) for index in range(MOST_CURVES)}) == MOST_CURVES


def test_signs_that_mean_something_to_the_typesetter(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(i), overrides=[f"+algo.note=$a_{i}^{{"]) for i in range(2)]
    figure = comparison(group([RunDirectory(run) for run in runs]))
    assert imread(drawing.save(figure, tmp_path / "curves.png")).std() > 0.01


def test_nothing_measured_says_so(tmp_path: Path) -> None:
    figure = comparison(group([RunDirectory(write_run(tmp_path / "run", evaluations=(), status=None))]))
    assert [text.get_text() for text in figure.axes[0].texts] == ["nothing was measured yet"]


def test_a_save_that_fails_leaves_the_old_picture(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    path.write_bytes(b"old")

    class Broken(Figure):
        def savefig(self, fname: Path, **kwargs: object) -> None:  # type: ignore[override]
            Path(fname).write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        drawing.save(Broken(), path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_the_same_figure_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    configurations = group([RunDirectory(write_run(tmp_path / "run"))])
    first, second = (drawing.save(comparison(configurations), tmp_path / f"{i}.{kind}").read_bytes() for i in range(2))
    assert first == second and len(first) > 5000


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (500, "500"), (50_000, "50k"), (1_500_000, "1.5M"), (-2000, "-2k")],
)
def test_short_numbers(value: float, text: str) -> None:
    assert drawing.short_number(value) == text
