"""Step sizes that fall over the run's own length, without anybody counting its gradient steps."""

from pathlib import Path

import pytest
from tests.commands import checkpoint, rows
from tests.training import composed, resume, train

from downpour.building import build_schedule
from downpour.config import ConfigError
from downpour.learning_rate import Linear
from downpour.validation import validate

SHORT = ("total_env_steps=512", "eval_every=256", "model.hidden=[8]", "callbacks.recorder.every=32", "logger=csv")
KINDS = {
    "dqn": ("algo=dqn", "data.learning_starts=64"),
    "online": ("algo=q_learning", "data.num_envs=4", "data.batch_size=2", "optimizer=sgd", "optimizer.lr=1e-3"),
    "a2c": ("algo=advantage_actor_critic", "data.num_envs=3"),
    "ppo": ("algo=ppo", "algo.epochs=3"),
}


def test_a_straight_line() -> None:
    line = Linear(steps=10, end=0.1, warmup=2)
    assert [line(step) for step in (0, 1, 2, 6, 10, 99)] == pytest.approx([0.5, 1, 1, 0.55, 0.1, 0.1])
    assert Linear(planned=4)(2) == 0.5
    with pytest.raises(ConfigError, match=r"schedule\.steps=null: the number of .* set it explicitly"):
        Linear()


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_down_is_as_long_as_the_run(tmp_path: Path, kind: str) -> None:
    train(tmp_path, *KINDS[kind], *SHORT, "schedule=linear")
    made = checkpoint(tmp_path)["gradient_steps"]
    (group,) = checkpoint(tmp_path)["optimizer_states"][0]["param_groups"]
    assert group["steps_taken"] == made
    seen = [float(row["train/learning_rate"]) for row in rows(tmp_path / "metrics.csv") if row["train/learning_rate"]]
    assert seen == sorted(seen, reverse=True) and seen[0] >= 0.5 * group["base_lr"] > 20 * seen[-1]
    assert group["lr"] == pytest.approx(0, abs=1e-12)  # all of the way has been made
    config = validate(composed(*KINDS[kind], *SHORT, "schedule=linear"))
    planned = build_schedule(config).steps
    round_updates = config["data"].get("updates", 1)
    assert planned <= made <= planned + 2 * round_updates  # but no more than the last rounds were without a step


def test_it_follows_a_run_that_is_lengthened(tmp_path: Path) -> None:
    train(tmp_path, *KINDS["a2c"], *SHORT, "schedule=cosine")
    before = checkpoint(tmp_path)["gradient_steps"]
    resume(tmp_path, "total_env_steps=1024")
    (group,) = checkpoint(tmp_path)["optimizer_states"][0]["param_groups"]
    assert group["steps_taken"] > before
    seen = {
        int(row["env_steps"]): float(row["train/learning_rate"])
        for row in rows(tmp_path / "metrics.csv")
        if row["train/learning_rate"]
    }
    after = [rate for step, rate in seen.items() if step > 512 + 96]
    assert after[0] > 0.2 * group["base_lr"] and after[-1] < 0.02 * group["base_lr"]


@pytest.mark.parametrize(
    ("overrides", "in_step", "steps"),
    [
        ("experiment=zoo_cartpole", 1, 24_500),
        ("experiment=zoo_cartpole", 2, 12_250),  # a round has the steps of both
        ("experiment=digits_mlp", 2, 3_000),  # each rank makes all of them
        ("algo=ppo schedule=cosine total_env_steps=25600 data.num_envs=8 data.round_steps=32", 1, 100 * 40),
        ("algo=ppo schedule=cosine schedule.steps=7", 1, 7),
        (
            "experiment=digits_mlp trainer=ddp_cpu strategy.accumulate=4",
            2,
            750,
        ),  # batches that the optimizer sees at once
        ("experiment=digits_mlp trainer=ddp_cpu strategy=downpour strategy.n_push=3", 1, 1_000),  # the servers' updates
        ("experiment=digits_mlp trainer=ddp_cpu strategy=backup_workers", 1, 3_000),
    ],
)
def test_what_is_planned(overrides: str, in_step: int, steps: int) -> None:
    config = validate(composed(*overrides.split()))
    assert build_schedule(config, in_step).steps == steps


def test_a_run_of_unknown_length_is_told() -> None:
    with pytest.raises(ConfigError, match=r"schedule\.steps=null: the number of gradient steps"):
        validate(composed("algo=reinforce", "schedule=cosine"))
