"""The published tables and figures that sweeps can reproduce: columns, protocols, captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from downpour.analysis.published import HIGHEST, TRAINING
from downpour.config import ConfigError, nearest

Config = Mapping[str, Any]


def class_name(node: Config) -> str:
    """The class that a node of a configuration names."""
    return str(node["_target_"]).rpartition(".")[2]


@dataclass(frozen=True)
class Paper:
    """A table: games down, columns across.

    Attributes:
        algorithms: classes of those whose runs belong in it.
        column: which column the configuration of such a run belongs to; "" for none.
        caption: the protocol.
        measure: the number of a run (of `paper_table.MEASURES`) where nothing published is of another kind.
    """

    title: str
    algorithms: Sequence[str]
    columns: Sequence[str]
    column: Callable[[Config], str]
    caption: str
    measure: str = HIGHEST


COMPARED = (
    "Ours is the mean over seeds of what the row names, [95 % bootstrap interval], at the last step that every run of "
    "the game has reached (an environment step is one frame of MinAtar, four of Atari)"
)
BEST = (
    f"{COMPARED}: of each run's highest evaluation (epsilon 0.05, whole games), or of its last 100 training episodes. "
    "Where a cell has several settings (learning rates) it shows the one whose mean is highest, which flatters. "
    "Published numbers follow the protocols that are named; [fig]: read off a figure."
)
BIAS = (
    f"{COMPARED}: the last mean of max_a Q over the states of evaluation episodes (epsilon 0.05), minus the mean "
    "discounted return that the run's best policy received from such states. The paper's Figure 3 "
    "shows curves, and no table of them has been published: there is no number to put beside ours. overestimation.png "
    "has our curves: median over seeds with 10 and 90 % quantiles, the truth as a line."
)
PARTS = (
    f"{COMPARED}: of each run's last 100 training episodes, or of its highest evaluation (without exploration, whole "
    "games). The paper's Figure 3 shows curves of the median human-normalized score on Atari, and no table of them has "
    "been published: of its agents only Rainbow and DQN have scores of single games to put beside ours."
)
ABLATION = [f"{a} replay, {b} target Q" for a in ("with", "without") for b in ("with", "without")]
RAINBOW: dict[frozenset[str], str] = {
    frozenset(): "Rainbow",
    frozenset({"double"}): "no double",
    frozenset({"priorities"}): "no priority",
    frozenset({"n_step"}): "no multi-step",
    frozenset({"dueling"}): "no dueling",
    frozenset({"noise"}): "no noisy",
    frozenset({"distribution"}): "no distribution",
    frozenset({"double", "priorities", "n_step", "dueling", "noise", "distribution"}): "DQN",
}


def missing_parts(config: Config) -> frozenset[str]:
    """Which of Rainbow's parts a run does without."""
    algo, data, model = config["algo"], config["data"], config["model"]
    has = {
        "double": class_name(algo) == "DoubleDQN",
        "priorities": data.get("priority_exponent") is not None,
        "n_step": data.get("n_step", 1) > 1,
        "dueling": bool(model.get("dueling")),
        "noise": bool(model.get("noise")),
        "distribution": bool(algo.get("distribution")),
    }
    return frozenset(part for part, there in has.items() if not there)


PAPERS = {
    "mnih2015_ablation": Paper(
        "Mnih et al. 2015, Extended Data Table 3: replay and a separate target network",
        ["DQN"],
        ABLATION,
        lambda config: ABLATION[2 * (not config["data"]["replay"]) + (not config["algo"]["target_network"])],
        BEST,
    ),
    "mnih2015_linear": Paper(
        "Mnih et al. 2015, Extended Data Table 4: a network and a linear function",
        ["DQN"],
        ["DQN", "Linear"],
        lambda config: "Linear" if class_name(config["model"]) == "Linear" else "DQN",
        BEST,
    ),
    "mnih2015_scores": Paper(
        "Mnih et al. 2015, Extended Data Table 2: scores",
        ["DQN"],
        ["DQN", "Random Play", "Human"],
        lambda config: "DQN",
        BEST,
    ),
    "vanhasselt2016_bias": Paper(
        "van Hasselt et al. 2016, Figure 3: over-estimation",
        ["DQN", "DoubleDQN"],
        ["DQN", "Double DQN"],
        lambda config: class_name(config["algo"]).replace("Double", "Double "),
        BIAS,
        "over-estimation",
    ),
    "rainbow_ablation": Paper(
        "Hessel et al. 2018, Figure 3: Rainbow without one of its parts",
        ["DQN", "DoubleDQN"],
        list(RAINBOW.values()),
        lambda config: RAINBOW.get(missing_parts(config), ""),
        PARTS,
        TRAINING,
    ),
}


def find(name: str) -> Paper:
    """The paper's table of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PAPERS:
        raise ConfigError("paper", name, f"there are {', '.join(PAPERS)}{nearest(name, list(PAPERS))}")
    return PAPERS[name]
