"""Images a second on the digits: this framework, a bare PyTorch loop, Lightning with an ordinary DataLoader, in turn.

Each measurement is a process of its own with one thread. The machine's speed drifts, so what counts is the ratio of two
measurements of the same turn; the table gives its median, least and greatest.

    python benchmarks/supervised.py [TURNS]
"""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
STEPS = {"mlp": 10_000, "convnet": 1_000}
BATCH = 64


def run(command: list[str]) -> str:
    """Standard output of a command with one thread."""
    source = str(HERE.parent / "src")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def downpour(model: str) -> float:
    """One training run from the command line, evaluated at its end; the first fifth is left out."""
    steps = STEPS[model] + STEPS[model] // 5
    every = STEPS[model] // 5
    options = [f"total_gradient_steps={steps}", f"eval_every={steps}", f"callbacks.recorder.every={every}"]
    with tempfile.TemporaryDirectory() as directory:
        command = [str(HERE.parent / "src" / "train.py"), "algo=supervised", f"model={model}", *options]
        run([*command, f"hydra.run.dir={directory}/run"])
        with open(Path(directory) / "run" / "timing.csv") as file:
            speeds = [float(row["time/steps_per_second"]) for row in csv.DictReader(file)][1:]
    return BATCH / statistics.mean(1 / speed for speed in speeds)


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
        for peer in ("bare", "lightning"):
            ratios = [ours / theirs for ours, theirs in zip(found["downpour"], found[peer], strict=True)]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
