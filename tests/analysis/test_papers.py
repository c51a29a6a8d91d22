"""The papers' tables: what belongs where, which of several settings is shown, what stands beside it."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gymnasium.spaces import Box, Discrete
from tests.analysis.runs_factory import write_run
from tests.commands import Commands
from tests.worlds import CONF, composed

from downpour.analysis import paper_table, papers
from downpour.analysis.configurations import group
from downpour.analysis.published import PUBLISHED
from downpour.analysis.report import report
from downpour.analysis.runs import RunDirectory, find_runs
from downpour.building import build_algorithm
from downpour.config import ConfigError
from downpour.validation import validate

DQN = "downpour.algorithms.dqn.DQN"
MINATAR = "downpour.environments.MinAtar"
SCALES = {  # the network, and what it sees
    "minatar": ("minatar_cnn", Box(0, 1, (4, 10, 10), np.bool_)),
    "atari": ("nature_cnn", Box(0, 255, (4, 84, 84), np.uint8)),
}


def ablation(
    directory: Path, cell: tuple[bool, bool], lr: float, best: list[float], returns: Sequence[float] = ()
) -> None:
    """A run a number; its last evaluation is worse than its best."""
    replay, target = cell
    for seed, score in enumerate(best):
        typed = [f"data.replay={replay}", f"algo.target_network={target}", f"optimizer.lr={lr}", f"seed={seed}"]
        config = {
            "env": {"_target_": MINATAR, "game": "breakout"},
            "data": {"replay": replay},
            "algo": {"_target_": DQN, "target_network": target},
            "optimizer": {"lr": lr},
        }
        path = directory / f"{replay}{target}{lr}{seed}"
        evaluations = [(500, score), (1000, score / 2)]
        write_run(path, overrides=typed, seed=seed, config=config, evaluations=evaluations, returns=returns)


def rows(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    with open(path) as file:
        return {(_short(row["source"]), row["column"]): row for row in csv.DictReader(file)}


def _short(source: str) -> str:
    return source.rpartition(",")[0] if source.startswith("ours") else source.partition(",")[0]


def test_the_ablation_beside_the_papers(tmp_path: Path) -> None:
    ablation(tmp_path, (True, True), 1e-3, [8.0, 10.0])
    ablation(tmp_path, (True, True), 1e-4, [11.0, 13.0])  # the best of the learning rates is shown
    ablation(tmp_path, (False, False), 1e-3, [1.0, 1.0])
    text = report(find_runs(tmp_path), tmp_path, paper="mnih2015_ablation")
    found = rows(tmp_path / "paper.csv")
    ours = {column: row for (source, column), row in found.items() if source == "ours, MinAtar, highest evaluation"}
    assert {column: float(row["mean"]) for column, row in ours.items()} == {
        "with replay, with target Q": 12.0,
        "without replay, without target Q": 1.0,
    }
    first = ours["with replay, with target Q"]
    assert (float(first["low"]), float(first["high"]), first["seeds"]) == (11.0, 13.0, "2")
    assert float(found["Mnih et al. 2015", "with replay, without target Q"]["mean"]) == 240.7
    assert float(found["Young and Tian 2019", "without replay, with target Q"]["mean"]) == 4.2
    page = (tmp_path / "paper.md").read_text()
    assert page.strip() in text
    assert "| ours, MinAtar, highest evaluation, 2 seeds" in page
    assert "| 1 000 environment steps" in page and "| 10 M frames " in page
    assert "Extended Data Table 3" in page
    assert "(breakout, ours, MinAtar, highest evaluation, 2 seeds): with replay, with target Q: lr=0.0001." in page
    assert (tmp_path / "paper.png").stat().st_size > 10_000


def test_training_episodes_stand_beside_training_episodes(tmp_path: Path) -> None:
    """Young and Tian's figures are of training; the highest evaluation at epsilon 0.05 is another number."""
    for seed, level in enumerate([4.0, 6.0]):
        config = {"env": {"_target_": MINATAR, "game": "freeway"}, "algo": {"_target_": DQN}}
        returns = [100.0] * 20 + [level] * 100
        write_run(tmp_path / str(seed), seed=seed, config=config, evaluations=[(1000, 30.0)], returns=returns)
    report(find_runs(tmp_path), tmp_path, paper="mnih2015_scores")
    found = rows(tmp_path / "paper.csv")
    assert float(found["ours, MinAtar, last 100 training episodes", "DQN"]["mean"]) == 5.0
    assert float(found["ours, MinAtar, highest evaluation", "DQN"]["mean"]) == 30.0
    runs = group(map(RunDirectory, find_runs(tmp_path)))
    table = paper_table.lines(papers.PAPERS["mnih2015_scores"], PUBLISHED["mnih2015_scores"], runs)
    kinds = ["MinAtar, highest evaluation", "Atari, 30", "MinAtar, last 100", "MinAtar, training"]
    sources = [line.source.partition(", ")[2] for line in table]
    assert all(source.startswith(kind) for source, kind in zip(sources, kinds, strict=True))


def test_one_colour_for_one_source_in_all_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One legend serves panels of unequally many bars; a published number has no interval to draw."""
    figures: list[Any] = []
    monkeypatch.setattr(paper_table, "save", lambda figure, path: figures.append(figure))
    for game in ("asterix", "breakout"):  # the former is in one of the two papers
        config = {
            "env": {"_target_": MINATAR, "game": game},
            "algo": {"_target_": DQN, "target_network": True},
            "data": {"replay": True},
        }
        write_run(tmp_path / game, overrides=[f"env.game={game}"], config=config, returns=[1.0] * 100)
    report(find_runs(tmp_path), tmp_path, paper="mnih2015_ablation")
    bars = [bar for axes in figures[0].axes for bar in axes.containers if hasattr(bar, "patches")]
    colours = {(bar.get_label(), bar.patches[0].get_facecolor()) for bar in bars}
    assert len(colours) == len({name for name, _ in colours}) == len({colour for _, colour in colours}) == 4


def test_runs_of_unequal_length_and_hardware_are_compared_at_the_last_step_of_all(tmp_path: Path) -> None:
    """The ratio of two cells would otherwise be one of lengths, too."""
    ablation(tmp_path, (True, True), 1e-3, [8.0], returns=[1.0] * 500 + [50.0] * 500)
    ablation(tmp_path, (False, True), 1e-3, [2.0], returns=[0.5] * 500 + [0.75] * 500)
    short = write_run(
        tmp_path / "short",
        overrides=[
            "data.replay=False",
            "algo.target_network=True",
            "optimizer.lr=0.001",
            "total_env_steps=500",
            "trainer=gpu",
            "trainer.cuda_graph=true",
            "seed=1",
        ],
        seed=1,
        config={
            "env": {"_target_": MINATAR, "game": "breakout"},
            "data": {"replay": False},
            "algo": {"_target_": DQN, "target_network": True},
        },
        evaluations=[(500, 4.0)],
        returns=[0.1] * 500,
        status="stopped",
    )
    assert RunDirectory(short).steps == 500
    text = report(find_runs(tmp_path), tmp_path, paper="mnih2015_ablation")
    found = {key: float(row["mean"]) for key, row in rows(tmp_path / "paper.csv").items()}
    training = "ours, MinAtar, last 100 training episodes"
    assert found[training, "with replay, with target Q"] == 1.0
    assert found[training, "without replay, with target Q"] == pytest.approx(0.3)
    assert found["ours, MinAtar, highest evaluation", "without replay, with target Q"] == 3.0
    assert "| 500 environment steps" in text


def test_a_cell_without_a_number_is_empty(tmp_path: Path) -> None:
    """No evaluation within the steps that all have reached, or none at all; no training episode."""
    early = write_run(tmp_path / "early", overrides=["data.replay=true", "algo.target_network=false", "seed=0"])
    config = {
        "env": {"_target_": MINATAR, "game": "breakout"},
        "data": {"replay": True},
        "algo": {"_target_": DQN, "target_network": False},
    }
    (early / "config.yaml").write_text(yaml.safe_dump(config))
    (early / "metrics.csv").write_text("env_steps,train/loss\n400,0.5\n")
    (early / "summary.json").write_text("{}")
    ablation(tmp_path, (True, True), 1e-3, [8.0])
    ablation(tmp_path, (False, True), 1e-3, [2.0], returns=[1.0] * 100)
    ablation(tmp_path, (False, True), 1e-4, [2.0])
    text = report(find_runs(tmp_path), tmp_path, paper="mnih2015_ablation")
    assert (
        "| ours, MinAtar, last 100 training episodes, 1 seed" in text
        and "| ours, MinAtar, highest evaluation" not in text
    )
    assert "| 400 environment steps" in text and "nan" not in text
    assert (tmp_path / "paper.png").stat().st_size > 10_000


def test_the_bias_is_the_last_estimate_less_what_the_best_received(tmp_path: Path) -> None:
    for name, bias in (("DQN", 2.0), ("DoubleDQN", 0.5)):
        config = {
            "env": {"_target_": MINATAR, "game": "asterix"},
            "algo": {"_target_": f"downpour.algorithms.x.{name}"},
        }
        path = write_run(tmp_path / name, overrides=[f"algo={name}"], config=config)
        lines = ["env_steps,eval/return_mean,eval/value_estimate,eval/value_actual"]
        lines += ["1000,9,3,1.5", f"2000,5,{1.5 + bias},1.0"]  # the first evaluation was the best
        (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    report(find_runs(tmp_path), tmp_path, paper="vanhasselt2016_bias")
    values = {column: float(row["mean"]) for (_, column), row in rows(tmp_path / "paper.csv").items()}
    assert values == {"DQN": 2.0, "Double DQN": 0.5}


@pytest.mark.parametrize("name", sorted(papers.PAPERS))
def test_a_run_of_another_algorithm_is_in_no_table(tmp_path: Path, name: str) -> None:
    config = {"algo": {"_target_": "downpour.algorithms.ppo.PPO"}, "data": {"num_envs": 8}}
    write_run(tmp_path / "0", config=config)
    report(find_runs(tmp_path), tmp_path, paper=name)
    assert not (tmp_path / "paper.md").exists()


def test_a_game_played_in_two_ways_has_a_row_of_each(tmp_path: Path) -> None:
    """The published numbers stand there once."""
    worlds = {"MinAtar": {"_target_": MINATAR}, "Atari": {"_target_": "a.Atari", "protocol": "machado2018"}}
    for score, (name, world) in enumerate(worlds.items()):
        config = {"env": {**world, "game": "breakout"}, "algo": {"_target_": DQN}}
        choices = {"env": name.lower()}
        write_run(tmp_path / name, config=config, choices=choices, evaluations=[(1000 + score, score)])
    runs = group(map(RunDirectory, find_runs(tmp_path)))
    table = paper_table.lines(papers.PAPERS["mnih2015_scores"], PUBLISHED["mnih2015_scores"], runs)
    found = {line.source: (line.length, line.mean("DQN")) for line in table}
    assert found["ours, MinAtar, highest evaluation, 1 seed"] == ("1 000 environment steps", 0.0)
    assert found["ours, Atari machado2018, highest evaluation, 1 seed"] == ("1 001 environment steps", 1.0)
    assert len(found) == len(table) == 4  # and both papers


def test_an_unknown_paper_is_answered_with_the_nearest(tmp_path: Path) -> None:
    write_run(tmp_path / "0")
    with pytest.raises(ConfigError, match="did you mean mnih2015_scores"):
        report(find_runs(tmp_path), tmp_path, paper="mnih2015_score")


@pytest.mark.parametrize("name", sorted(papers.PAPERS))
def test_every_published_number_has_a_column_and_a_protocol(name: str) -> None:
    for numbers in PUBLISHED.get(name, []):
        assert numbers.length.endswith(" M frames") and numbers.measure in paper_table.MEASURES
        for cells in numbers.games.values():
            assert set(cells) <= set(papers.PAPERS[name].columns)


@pytest.mark.parametrize("scale", ["minatar", "atari"])
@pytest.mark.parametrize("name", sorted(papers.PAPERS))
def test_the_experiment_of_each_table_fills_all_its_columns(name: str, scale: str) -> None:
    """Of what its sweep varies; on either scale, with the network of that scale."""
    page: Any = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    assert page["hydra"]["callbacks"]["sweep_report"]["paper"] == name
    swept = {key: str(value).split(",") for key, value in page["hydra"]["sweeper"]["params"].items()}
    base = [f"experiment={name}", f"experiment/scale={scale}"]
    network, pixels = SCALES[scale]
    columns = set()
    for key in ("data.replay", "model", "algo", "env.game", "experiment/without"):
        for value in swept.get(key, []):
            value = value.replace("${hydra.runtime.choices.model}", str(network))
            others = [f"algo.target_network={each}" for each in swept.get("algo.target_network", ["true"])]
            for other in others:
                config = validate(composed(*base, f"{key}={value}", other))
                assert config["env"]["_target_"].lower().endswith(scale)
                columns.add(papers.PAPERS[name].column(config))
                spaces = {"observation_space": pixels, "action_space": Discrete(6)}
                assert build_algorithm(config, spaces, lambda *_: None)  # type: ignore[arg-type, return-value]
    assert columns - {""} >= set(papers.PAPERS[name].columns) - {"Random Play", "Human"}


@pytest.mark.slow
def test_a_multirun_of_the_experiment_ends_with_its_table(commands: Commands) -> None:
    short = ["total_env_steps=304", "data.learning_starts=100", "eval_every=152", "eval_episodes=1", "logger=csv"]
    short += ["callbacks.evaluation.max_episode_steps=20", "optimizer.lr=1e-3", "seed=0"]
    ended = commands.run("-m", "experiment=mnih2015_linear", *short, "hydra.sweep.dir=sweep")
    assert ended.code == 0, ended.text
    assert "| breakout | ours, MinAtar, highest evaluation, 1 seed" in ended.out
    found = rows(commands.folder / "sweep/paper.csv")
    assert {column for source, column in found if source.startswith("ours")} == {"DQN", "Linear"}
    assert (commands.folder / "sweep/paper.png").exists()
