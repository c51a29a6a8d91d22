"""`make bench`: speed, then learning. ARGS="pixels policies" for others, ARGS="pixels 3" for so many turns (or seeds).

Each of them is a module of this folder with `main(turns)`, which measures and returns a table in Markdown; those of
`ARGS=list` that need several machines' worth of cores, or settings of their own, are commands by themselves.
"""

import importlib
import sys

BENCHMARKS = {  # name: what is measured, turns or seeds
    "speed": ("environment steps a second of DQN on CartPole, beside a bare loop and Stable-Baselines3", 5),
    "learning": ("what protocols of the field come to, over seeds", 10),
    "distributed": ("two processes: the framework's cost, and what the second core gives", 5),
    "parameter_server": ("pushes a second to a parameter server, beside a bare loop", 5),
    "pixels": ("environment steps a second on MinAtar and Atari, beside a bare loop and Stable-Baselines3", 3),
    "policies": ("environment steps a second of PPO, DDPG and TD3, beside Stable-Baselines3", 3),
    "shaped_link": ("two processes over a slow link between two network namespaces, beside the cost model", 1),
    "replay": ("memory, draws and checkpoints of a ring of a million Atari steps", 5),
    "supervised": ("images a second on the digits, beside a bare loop and Lightning with a DataLoader", 5),
    "two_peaks": ("one Gaussian and a mixture of two where the reward has two peaks, over seeds", 10),
}
DEFAULT = ("speed", "learning")


def chosen(words: list[str]) -> list[tuple[str, int]]:
    """Names and turns of what the command line asks for."""
    names, numbers = [word for word in words if not word.isdigit()], [int(word) for word in words if word.isdigit()]
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        listed = "\n".join(f"  {name:<17} {what}" for name, (what, _) in BENCHMARKS.items())
        sys.exit(f"error: {', '.join(unknown)}: there are\n{listed}")
    return [(name, (numbers or [BENCHMARKS[name][1]])[0]) for name in names or DEFAULT]


if __name__ == "__main__":
    for name, turns in chosen(sys.argv[1:]):
        print(f"## {name}: {BENCHMARKS[name][0]}\n\n{importlib.import_module(name).main(turns)}\n", flush=True)
