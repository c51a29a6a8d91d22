"""`make bench` runs speed and learning; ARGS="pixels policies" selects others, ARGS="pixels 3" the turns (or seeds).

Each benchmark is a module of this folder whose `main(turns)` measures and returns a table in Markdown. An unknown name
lists them. The other scripts of this folder need a GPU or settings, and are commands of their own.
"""

import importlib
import sys

BENCHMARKS = {  # name -> (what it measures, turns or seeds)
    "speed": ("environment steps per second of DQN on CartPole, compared with a bare loop and Stable-Baselines3", 5),
    "learning": ("returns under standard protocols, over seeds", 10),
    "distributed": ("two processes: the framework's overhead, and the parallel efficiency", 5),
    "parameter_server": ("pushes per second to a parameter server, compared with a bare loop", 5),
    "pixels": ("environment steps per second on MinAtar and Atari, compared with a bare loop and Stable-Baselines3", 3),
    "policies": ("environment steps per second of PPO, DDPG, TD3 and SAC, compared with Stable-Baselines3", 3),
    "shaped_link": ("two processes over a slow link between two network namespaces, compared with the cost model", 1),
    "replay": ("memory, sampling and checkpoints of a million Atari steps in replay", 5),
    "supervised": ("images per second on the digits, compared with a bare loop and Lightning with a DataLoader", 5),
    "two_peaks": ("a Gaussian policy and a mixture of two on a reward with two peaks, over seeds", 10),
}
DEFAULT = ("speed", "learning")


def chosen(words: list[str]) -> list[tuple[str, int]]:
    """(name, turns) of the benchmarks that the command line selects.

    Raises:
        SystemExit: an unknown name.
    """
    names, numbers = [word for word in words if not word.isdigit()], [int(word) for word in words if word.isdigit()]
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        listed = "\n".join(f"  {name:<17} {what}" for name, (what, _) in BENCHMARKS.items())
        sys.exit(f"error: {', '.join(unknown)}: there are\n{listed}")
    return [(name, (numbers or [BENCHMARKS[name][1]])[0]) for name in names or DEFAULT]


if __name__ == "__main__":
    for name, turns in chosen(sys.argv[1:]):
        print(f"## {name}: {BENCHMARKS[name][0]}\n\n{importlib.import_module(name).main(turns)}\n", flush=True)
