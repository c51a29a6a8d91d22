"""Published efficiencies; none was measured by this project."""

from typing import NamedTuple


class Point(NamedTuple):
    """E_N on `ranks` machines or devices."""

    ranks: int
    efficiency: float
    label: str


POINTS = (
    Point(8, 0.28, "DistBelief, 42 M weights"),  # Dean et al. 2012, Figure 3: 2.2 times as fast on 8 machines
    Point(81, 0.15, "DistBelief, 1.7 G weights"),  # the same: more than 12 times on 81
    Point(128, 0.97, "torchtitan, 8 G weights"),  # Liang et al. 2024: from 8 to 128 H100
    Point(256, 0.90, "ResNet-50, Goyal"),  # Goyal et al. 2017, section 5.4: batch 8 192
    Point(512, 0.90, "ResNet-101, Horovod"),  # Sergeev and Del Balso 2018, Figure 6
    Point(512, 0.68, "VGG-16, Horovod"),
)
