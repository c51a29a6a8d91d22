"""The off-policy stream: act, remember, draw."""

import os
import time
from collections.abc import Mapping
from typing import Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from downpour.config import ConfigError, Discount, NonNegativeInt, PositiveFloat, PositiveInt, Probability
from downpour.data.collector import row_dtype
from downpour.data.experience import Experience
from downpour.data.journal import Journal
from downpour.data.memory import check_room
from downpour.data.replay import Replay
from downpour.data.staging import Staging
from downpour.environments import Environment
from downpour.run import Purpose, Run


class ReplayData(Experience):
    """Rounds for off-policy learning rules: collect a block of experience, draw many batches, yield them at once."""

    stream = "replay"

    def __init__(
        self,
        environment: Environment,
        run: Run,
        *,
        gamma: Discount,
        num_envs: PositiveInt = 8,
        round_steps: PositiveInt = 8,
        updates: PositiveInt = 32,
        batch_size: PositiveInt = 64,
        learning_starts: NonNegativeInt = 1000,
        replay: bool = True,
        capacity: PositiveInt = 100_000,
        storage: Literal["memory", "disk"] = "memory",
        n_step: PositiveInt = 1,
        priority_exponent: PositiveFloat | None = None,
        importance_exponent: Probability = 0.4,
        overlap: bool = False,
    ):
        """
        Args:
            gamma: discount of n-step returns; the algorithm's.
            num_envs: environments stepped together, on each rank.
            round_steps: steps of each environment in a round.
            updates: gradient steps a round (with replay; without, as many as its transitions make batches).
            batch_size: transitions a gradient step; without replay at most one of each environment.
            learning_starts: environment steps of all ranks before the first gradient step.
            replay: False learns from each transition once, in their order, as (50)-(55) do.
            capacity: rows of the ring, on each rank.
            storage: `disk` keeps the ring in memory-mapped files in the run directory.
            n_step: rewards summed before the bootstrap.
            priority_exponent: alpha of prioritized replay; null draws uniformly.
            importance_exponent: beta at the start of the run; it rises to 1 at its end.
            overlap: choose the first action of a round before the gradient steps of the one before it, and let the
                environments go on with it meanwhile (those that can: Atari's, and `env.vectorization=async`).

        Raises:
            ConfigError: switches that exclude each other, or a ring that will not fit.
        """
        stack = environment.stack
        super().__init__(environment, run, num_envs=num_envs, round_steps=round_steps, stack=stack)
        if priority_exponent is not None and not replay:
            raise ConfigError("data.priority_exponent", priority_exponent, "needs data.replay=true")
        if not replay and num_envs % (batch_size := min(batch_size, num_envs)):
            raise ConfigError("data.batch_size", batch_size, f"must divide data.num_envs={num_envs} without replay")
        self.updates, self.batch_size, self.replays, self.beta = updates, batch_size, replay, importance_exponent
        self.learning_starts = learning_starts if replay else 0
        self.n_step, self.overlap = n_step, overlap
        least = (n_step + 1 + stack) * num_envs
        rows = capacity if replay else least + round_steps * num_envs
        if rows < least:
            raise ConfigError("data.capacity", capacity, f"is too small for a transition; use at least {least}")
        directory = run.directory / "replay" / f"ring{run.rank}" if storage == "disk" else None
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        self.check_room({"replay": replay, "capacity": rows, "storage": storage}, environment, run, processes)
        generator = torch.Generator().manual_seed(int(run.seed_sequence(Purpose.REPLAY).generate_state(1)[0]))
        self.memory = Replay(
            rows,
            num_envs,
            generator,
            gamma=gamma,
            n_step=n_step,
            alpha=priority_exponent,
            stack=stack,
            directory=directory,
        )
        self.seconds["replay"] = 0.0
        self._journal_from = self._journal_previous = 0
        self._round: TensorDict | None = None
        self._index: Tensor | None = None
        self._can_draw = False
        self._staging: Staging | None = None

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if "transfer" in self.seconds:
            self._staging = Staging(self.trainer.strategy.root_device)  # type: ignore[union-attr]

    @classmethod
    def planned_batches(cls, settings: Mapping[str, Any], total_steps: int, in_step: int) -> int:
        if not settings["replay"]:
            return max(1, total_steps // (min(settings["batch_size"], settings["num_envs"]) * in_step))
        round_size = settings["num_envs"] * settings["round_steps"] * in_step
        return max(1, (total_steps - settings["learning_starts"]) * settings["updates"] // round_size)

    @staticmethod
    def check_room(settings: Mapping[str, Any], environment: Environment, run: Run, processes: int) -> None:
        """Rings, and the journals of their checkpoints."""
        if settings["replay"]:
            check_room(
                settings["capacity"],
                row_dtype(environment.observation_space, environment.action_space, environment.stack).itemsize,
                run.directory,
                on_disk=settings["storage"] == "disk",
                written=run.total_steps // run.synchronous_replicas,
                between=run.eval_every // run.synchronous_replicas,
                processes=processes,
            )

    def _start(self) -> None:
        self.memory.extend(self.collector.start())

    def _next_round(self) -> TensorDict:
        self._learn_priorities()
        self.memory.extend(self.collector.collect(self.round_steps, self._act))
        if self._staging is None:
            self._begin_next()
            return self._draw()
        batch = self._send(self._draw())  # beside the gradient steps that acting waits for
        self._begin_next()
        return batch

    def _begin_next(self) -> None:
        if self.overlap:
            self.collector.begin(self._act)

    def _draw(self) -> TensorDict:
        """The batches of a round, where the ring is."""
        begin = time.perf_counter()
        if not self.replays:
            complete = self.memory.count // self.num_envs - self.n_step
            rows = self.memory.latest(max(0, min(self.round_steps, complete)))
            batch = rows.view(len(rows) * self.num_envs // self.batch_size, self.batch_size)
            if self.run.synchronous_replicas == 1:  # ranks must make equal numbers of gradient steps, this one need not
                batch = batch[batch["weight"].any(1)]
        elif self.step <= self.learning_starts or not self._draws():
            batch = self.memory.transitions(torch.empty(0, dtype=torch.long)).view(0, self.batch_size)
        else:
            beta = self.beta + (1 - self.beta) * min(1.0, self.step / self.run.total_steps)
            batch = self.memory.sample(self.updates, self.batch_size, beta)
        self.seconds["replay"] += time.perf_counter() - begin
        self._round, self._index = batch, batch.get("index", None)
        return batch

    def _send(self, batch: TensorDict) -> TensorDict:
        """Begin to copy a round to the GPU; `transfer_batch_to_device` waits for it."""
        assert self._staging is not None
        begin = time.perf_counter()
        batch = self._staging.send(batch.exclude("index"))
        self.seconds["transfer"] += time.perf_counter() - begin
        return batch

    def transfer_batch_to_device(self, batch: TensorDict, device: torch.device, dataloader_idx: int) -> TensorDict:
        if self._staging is None:
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        self._staging.wait()
        return batch

    def _draws(self) -> bool:
        self._can_draw = self._can_draw or self.memory.has_transitions()
        return self._can_draw

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Keep the round that the learner sees (on its device), to read its TD errors back."""
        self._round = batch
        return batch

    def _learn_priorities(self) -> None:
        if self._round is not None and "td_error" in self._round and len(self._round):
            assert self._index is not None
            self.memory.update_priority(self._index, self._round["td_error"].cpu())
        self._round = None

    def capture(self) -> dict[str, Any]:
        """This rank's part of a checkpoint; the rows go to the journal in the run directory."""
        self._learn_priorities()
        collector = self.collector.capture()
        if collector["environments"] is None:
            # Exact resume of an environment that cannot be saved: each checkpoint starts it anew, in an uninterrupted
            # run too.
            self.tell_of_restarts()
            self.memory.end_episodes()
            self.memory.extend(self.collector.start())
            collector = self.collector.capture()
        journal = self._journal()
        replay = self.memory.capture(journal, self._journal_from)
        journal.prune(self._journal_previous - self.memory.capacity)  # the checkpoint before this one stays whole
        self._journal_previous, self._journal_from = self._journal_from, self.memory.count
        return {"collector": collector, "rng": self.rng.bit_generator.state, "replay": replay}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `capture` returned."""
        self.rng.bit_generator.state = state["rng"]
        self.memory.restore(state["replay"], self._journal())
        self.collector.restore(state["collector"])
        self._journal_from = self._journal_previous = self.memory.count
        if state["collector"]["environments"] is None:
            self.tell_of_restarts()
        self._started = True

    def _journal(self) -> Journal:
        directory = self.run.directory / "replay" / f"rank{self.run.rank}"
        return Journal(directory, self.collector.row_dtype, max(1, self.memory.capacity // 8))
