"""Environment steps per second of PPO, DDPG, TD3 and SAC: this framework and Stable-Baselines3, in turn.

python benchmarks/policies.py 5
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import HERE, TRAIN, ratio_cells, run
from speed import rate

PPO_ENVS, PPO_STEPS, PPO_EPOCHS, PPO_MINIBATCHES, PPO_LR, PPO_HIDDEN = 8, 128, 10, 4, 3e-4, (64, 64)
ENVS, ROUND_STEPS, BATCH, LR, HIDDEN = 4, 8, 256, 1e-3, (256, 256)
WARMUP = 256
CONTROL = [
    "env=pendulum",
    f"data.num_envs={ENVS}",
    f"data.round_steps={ROUND_STEPS}",
    f"data.updates={ENVS * ROUND_STEPS}",
    f"data.batch_size={BATCH}",
    f"data.learning_starts={WARMUP}",
    f"optimizer.lr={LR}",
    f"model.hidden={list(HIDDEN)}",
    "callbacks.recorder.every=256",
]
OURS: dict[str, tuple[int, list[str]]] = {  # steps, overrides
    "ppo": (
        40_960,
        [
            "algo=ppo",
            "env=cartpole",
            f"data.num_envs={PPO_ENVS}",
            f"data.round_steps={PPO_STEPS}",
            f"algo.epochs={PPO_EPOCHS}",
            f"algo.minibatches={PPO_MINIBATCHES}",
            f"optimizer.lr={PPO_LR}",
            f"model.hidden={list(PPO_HIDDEN)}",
            "model.activation=tanh",
            "callbacks.recorder.every=4096",
        ],
    ),
    "ddpg": (1_280, ["algo=actor_critic", *CONTROL]),
    "td3": (1_280, ["algo=td3", *CONTROL]),
    "sac": (1_280, ["algo=sac", *CONTROL]),
}
# Matrix products, of a batch and a hidden layer's weights, per update (one per environment step): a network's forward
# pass has one, its gradient two more; a critic through which the actor's gradient is propagated has one more.
PRODUCTS = {"ddpg": 10.0, "td3": 11.5, "sac": 16.0}
ROUNDED = "trainer.matmul_precision=medium"  # matrix products in bfloat16, on CPUs that support it


def downpour(name: str, shares: dict[str, list[float]], *more: str) -> float:
    """One training run from the command line; adds the shares of its time to `shares`."""
    steps, overrides = OURS[name]
    length = [f"total_env_steps={steps}", f"eval_every={steps}", "eval_episodes=1"]
    with tempfile.TemporaryDirectory() as directory:
        run([TRAIN, *overrides, *more, *length, f"hydra.run.dir={directory}/run"])
        return rate(Path(directory) / "run", 2 * WARMUP, shares)


def product_seconds() -> float:
    """Median seconds of one of the `PRODUCTS` in float32, which bounds the time of an update from below."""
    import torch

    torch.set_num_threads(1)
    batch, weights = torch.randn(BATCH, HIDDEN[0]), torch.randn(*HIDDEN)
    times = []
    for _ in range(2_000):
        begin = time.perf_counter()
        torch.mm(batch, weights)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main(turns: int) -> str:
    """Measure; return the table."""
    lines = [
        "| | downpour, steps/s (median) | Stable-Baselines3 | downpour is faster by (median) | least | greatest |",
        "|---|---|---|---|---|---|",
    ]
    notes = []
    for name, (steps, _) in OURS.items():
        variants = {name: (), f"{name}, `{ROUNDED}`": (ROUNDED,)} if name in PRODUCTS else {name: ()}
        shares: dict[str, dict[str, list[float]]] = {variant: {} for variant in variants}
        ours: dict[str, list[float]] = {variant: [] for variant in variants}
        theirs = []
        for turn in range(turns):
            for variant, more in variants.items():
                ours[variant].append(downpour(name, shares[variant], *more))
            theirs.append(float(run([str(HERE / "peer_sb3_policies.py"), name, str(steps)])))
            found = ", ".join(f"{values[-1]:.0f}" for values in ours.values())
            print(f"turn {turn + 1}  {name}: {found} and {theirs[-1]:.0f} steps/s", file=sys.stderr)
        for variant, values in ours.items():
            numbers = f"{statistics.median(values):.0f} | {statistics.median(theirs):.0f}"
            lines.append(f"| {variant} | {numbers} | {ratio_cells(values, theirs)} |")
        parts = ", ".join(f"{part} {100 * statistics.median(values):.0f} %" for part, values in shares[name].items())
        notes.append(f"Where its time goes with {name}: {parts}.")
        if name in PRODUCTS:
            least, step = 1e3 * PRODUCTS[name] * product_seconds(), 1e3 / statistics.median(ours[name])
            notes.append(f"{PRODUCTS[name]:g} matrix products take {least:.2f} ms of the {step:.2f} ms of its update.")
    return "\n".join([*lines, "", *notes])


if __name__ == "__main__":
    print(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
