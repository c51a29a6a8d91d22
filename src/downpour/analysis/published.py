"""Published results, each with its protocol, without which they could not be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HIGHEST, TRAINING = "highest evaluation", "last 100 training episodes"


@dataclass(frozen=True)
class Numbers:
    """The results of one source.

    Attributes:
        source: paper, environments and protocol; [fig]: read off a figure.
        length: of the runs.
        measure: the measure to compare with it, `HIGHEST` or `TRAINING`.
        games: game -> column -> result.
    """

    source: str
    length: str
    measure: str
    games: Mapping[str, Mapping[str, float]]


def _table(columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {game: dict(zip(columns, numbers, strict=True)) for game, numbers in rows.items()}


WITH, WITHOUT = "with replay, with target Q", "without replay, with target Q"
ATARI_10M = ("Mnih et al. 2015, Atari, highest evaluation, best of three learning rates", "10 M frames", HIGHEST)
PUBLISHED = {
    "mnih2015_ablation": [
        Numbers(
            *ATARI_10M,
            _table(
                [WITH, "with replay, without target Q", WITHOUT, "without replay, without target Q"],
                {
                    "breakout": (316.8, 240.7, 10.2, 3.2),
                    "enduro": (1006.3, 831.4, 141.9, 29.1),
                    "riverraid": (7446.6, 4102.8, 2867.7, 1453.0),
                    "seaquest": (2894.4, 822.6, 1003.0, 275.8),
                    "space_invaders": (1088.9, 826.3, 373.2, 302.0),
                },
            ),
        ),
        Numbers(
            "Young and Tian 2019, MinAtar, training episodes, 30 seeds [fig]",
            "5 M frames",
            TRAINING,
            _table(
                [WITH, WITHOUT],
                {
                    "breakout": (10, 4.2),
                    "asterix": (17, 5.5),
                    "freeway": (50, 8.5),
                    "seaquest": (20, 0.4),
                    "space_invaders": (43, 13),
                },
            ),
        ),
    ],
    "mnih2015_linear": [
        Numbers(
            *ATARI_10M,
            _table(
                ["DQN", "Linear"],
                {
                    "breakout": (316.8, 3.0),
                    "enduro": (1006.3, 62.0),
                    "riverraid": (7446.6, 2346.9),
                    "seaquest": (2894.4, 656.9),
                    "space_invaders": (1088.9, 301.3),
                },
            ),
        )
    ],
    "mnih2015_scores": [
        Numbers(
            "Mnih et al. 2015, Atari, 30 games of up to 5 minutes",
            "50 M frames",
            HIGHEST,
            _table(
                ["Random Play", "Human", "DQN"],
                {
                    "alien": (227.8, 6875, 3069),
                    "asterix": (210, 8503, 6012),
                    "beam_rider": (363.9, 5775, 6846),
                    "boxing": (0.1, 4.3, 71.8),
                    "breakout": (1.7, 31.8, 401.2),
                    "enduro": (0, 309.6, 301.8),
                    "freeway": (0, 29.6, 30.3),
                    "gopher": (257.6, 2321, 8520),
                    "ice_hockey": (-11.2, 0.9, -1.6),
                    "seaquest": (68.4, 20182, 5286),
                    "space_invaders": (148, 1652, 1976),
                },
            ),
        ),
        Numbers(
            "Young and Tian 2019, MinAtar, training episodes, 30 seeds [fig]",
            "1 M frames",
            TRAINING,
            _table(
                ["DQN"],
                {"breakout": (9,), "asterix": (7,), "freeway": (48,), "seaquest": (1,), "space_invaders": (33,)},
            ),
        ),
    ],
    "rainbow_ablation": [
        Numbers(
            "Hessel et al. 2018, Atari, best snapshot played again from no-op starts",
            "200 M frames",
            HIGHEST,
            _table(
                ["DQN", "Rainbow"],
                {
                    "breakout": (385.5, 417.5),
                    "asterix": (4359.0, 428200.3),
                    "freeway": (30.8, 34.0),
                    "seaquest": (5860.6, 15898.9),
                    "space_invaders": (1692.3, 18789.0),
                },
            ),
        ),
    ],
}
