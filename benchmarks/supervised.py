"""Images per second on the digits: this framework, a bare PyTorch loop, Lightning with an ordinary DataLoader, in turn.

Each measurement is a process of its own, with one thread.

    python benchmarks/supervised.py [TURNS]
"""

import statistics
import sys
import tempfile
from pathlib import Path

from common import HERE, TRAIN, ratios, run, spread, step_time, timing

STEPS = {"mlp": 10_000, "convnet": 1_000}
BATCH = 64


def downpour(model: str) -> float:
    """Images per second of one training run from the command line; the first fifth is left out as warm-up."""
    steps = STEPS[model] + STEPS[model] // 5
    every = STEPS[model] // 5
    options = [f"total_gradient_steps={steps}", f"eval_every={steps}", f"callbacks.recorder.every={every}"]
    with tempfile.TemporaryDirectory() as directory:
        run([TRAIN, "algo=supervised", f"model={model}", *options, f"hydra.run.dir={directory}/run"])
        return BATCH / step_time(timing(Path(directory) / "run")[1:])


def main(turns: int) -> str:
    """Measure; return the table."""
    lines = ["| model | downpour, images/s | bare loop | Lightning, DataLoader | downpour : bare | : Lightning |"]
    lines.append("|---|---|---|---|---|---|")
    for model, steps in STEPS.items():
        found: dict[str, list[float]] = {"downpour": [], "bare": [], "lightning": []}
        for turn in range(turns):
            found["downpour"].append(downpour(model))
            for peer in ("bare", "lightning"):
                found[peer].append(float(run([str(HERE / "supervised_peers.py"), peer, model, str(steps)])))
            print(f"turn {turn + 1} {model}", {k: round(v[-1]) for k, v in found.items()}, file=sys.stderr)
        cells = [f"{statistics.median(values):.0f}" for values in found.values()]
        cells += [spread(ratios(found["downpour"], found[peer])) for peer in ("bare", "lightning")]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
