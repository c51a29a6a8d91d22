"""A replay buffer that stores every observation once and reads transitions as adjacent rows."""

import math
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("RL_LOGGING_LEVEL", "WARNING")  # TorchRL logs every storage it creates

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, ReplayBuffer

from downpour.data.journal import Journal
from downpour.data.samplers import Prioritized, Uniform


class Replay:
    """A ring buffer of rows (see `Collector`), with several environments interleaved.

    The row before row j of the same environment is j - num_envs, so the transition that ends at j is that pair:
    neither next observations nor stacks are stored. Transitions are sampled by the row they end at, never from rows
    that end none (a reset, the oldest rows, or rows whose n-step window is incomplete).
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        generator: torch.Generator,
        *,
        gamma: float,
        n_step: int = 1,
        alpha: float | None = None,
        stack: int = 1,
        directory: Path | None = None,
    ):
        """
        Args:
            capacity: rows, rounded up to a multiple of `num_envs`.
            num_envs: environments that write.
            generator: used for all sampling.
            gamma: discount, for returns over `n_step` steps.
            alpha: exponent of prioritized sampling (Schaul et al. 2016, eq. 1); None samples uniformly.
            stack: frames per observation; a row holds the newest; zeros precede an episode's first.
            directory: keep the ring in memory-mapped files there; None keeps it in memory.
        """
        self.num_envs, self.gamma, self.n_step, self.alpha, self.stack = num_envs, gamma, n_step, alpha, stack
        self.capacity = math.ceil(capacity / num_envs) * num_envs
        self.count = 0  # rows ever written
        self.generator = generator
        storage = (
            LazyMemmapStorage(self.capacity, scratch_dir=directory, existsok=True)  # a resumed run refills it
            if directory
            else LazyTensorStorage(self.capacity)
        )
        sampler = Uniform(self) if alpha is None else Prioritized(self, alpha)
        # The default collates to a list; this keeps the tensors.
        self.buffer = ReplayBuffer(storage=storage, sampler=sampler, collate_fn=lambda rows: rows)
        self.buffer.set_rng(generator)

    def extend(self, rows: TensorDict) -> None:
        """Append rows [steps, num_envs]."""
        steps = self.capacity // self.num_envs
        for block in rows.split(steps):  # a block longer than the buffer would overwrite itself
            self.buffer.extend(block.reshape(-1))
            self.count += block.numel()

    def sample(self, updates: int, batch_size: int, beta: float = 1.0) -> TensorDict:
        """Draw transitions with replacement.

        Args:
            beta: exponent of the importance weights (Schaul et al. 2016, section 3.4).

        Returns:
            [updates, batch_size] of `observation`, `action`, `reward` (summed over n steps), `next_observation`,
            `terminated`, `discount` (gamma^n) and, if prioritized, `weight`, `index` and `td_error`, which the
            learner fills in.

        Raises:
            LookupError: there is no transition; see `has_transitions`.
        """
        sampler = self.buffer.sampler
        if self.alpha is not None:
            sampler.beta = beta
        index, info = sampler.sample(self.buffer.storage, updates * batch_size)
        batch = self.transitions(index)
        if self.alpha is not None:
            batch["weight"] = info["priority_weight"]
            batch["index"] = index
            batch["td_error"] = torch.zeros_like(batch["weight"])
        return batch.view(updates, batch_size)

    def latest(self, steps: int) -> TensorDict:
        """The transitions of the newest `steps` complete steps, in order.

        Returns:
            [steps, num_envs] as `sample`; `weight` is 0 where an environment was being reset.
        """
        newest = self.count - (self.n_step - 1) * self.num_envs
        index = torch.arange(newest - steps * self.num_envs, newest) % self.capacity
        batch = self.transitions(index)
        batch["weight"] = self.is_transition(index).to(torch.float32)
        return batch.view(steps, self.num_envs)

    def has_transitions(self) -> bool:
        """Whether there is any to draw."""
        return bool(self.is_transition(torch.arange(min(self.count, self.capacity))).any())

    def is_transition(self, index: Tensor) -> Tensor:
        """Whether a transition ends at each of these rows [batch] -> [batch] of bool."""
        steps = self.capacity // self.num_envs
        newest = self.count // self.num_envs - 1
        age = (newest - index // self.num_envs) % steps
        kept = min(newest + 1, steps)
        return ~self.field("first")[index] & (age >= self.n_step - 1) & (age < kept - self._reach)

    @property
    def _reach(self) -> int:
        """Oldest steps that end no transition, because the frames before them are missing."""
        return self.stack if self.count > self.capacity else 1

    def incomplete(self) -> Tensor:
        """Rows that end no transition because preceding or following rows are not in the buffer."""
        oldest = max(0, self.count - self.capacity)
        newest = self.count - min(self.count, (self.n_step - 1) * self.num_envs)
        reached = min(oldest + self.num_envs * self._reach, self.count)
        rows = torch.cat([torch.arange(oldest, reached), torch.arange(newest, self.count)])
        return rows % self.capacity

    def transitions(self, index: Tensor) -> TensorDict:
        """The transitions whose first step ends at these rows; see `sample`."""
        reward = self.field("reward")[index]
        terminated = self.field("terminated")[index]
        discount = torch.full_like(reward, self.gamma)
        last = index
        if self.n_step > 1:
            alive = ~(terminated | self.field("truncated")[index])
            for _ in range(1, self.n_step):
                step = (last + self.num_envs) % self.capacity
                last = torch.where(alive, step, last)
                reward = reward + alive * discount * self.field("reward")[last]
                discount = torch.where(alive, discount * self.gamma, discount)
                alive = alive & ~(self.field("terminated")[last] | self.field("truncated")[last])
            terminated = self.field("terminated")[last]
        observation, following = self._pairs(index, last)
        return TensorDict(
            {
                "observation": observation,
                "action": self.field("action")[index],
                "reward": reward,
                "next_observation": following,
                "terminated": terminated,
                "discount": discount,
            },
            batch_size=index.shape,
        )

    def _pairs(self, index: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """The observations before the rows `index` and at the rows `last`: [batch, ...] each."""
        before = (index - self.num_envs) % self.capacity
        if self.stack == 1:
            return self.field("observation")[before], self.field("observation")[last]
        if self.n_step > 1:
            return self.frames(before, self.stack), self.frames(last, self.stack)
        both = self.frames(index, self.stack + 1)  # they share all but one frame
        return both[:, :-1], both[:, 1:]

    def frames(self, index: Tensor, depth: int) -> Tensor:
        """The newest `depth` frames at these rows, oldest first: [batch, depth, ...]; 0 before an episode's first."""
        back = torch.arange(depth - 1, -1, -1) * self.num_envs
        rows = (index.unsqueeze(-1) - back) % self.capacity
        first = self.field("first")[rows].long()
        ring = self.field("observation")
        frames = ring.index_select(0, rows.flatten())
        gone = first.sum(-1, keepdim=True) > first.cumsum(-1)  # from before the episode began
        frames.index_fill_(0, gone.flatten().nonzero().squeeze(-1), 0)  # a mask would take ten times as long
        return frames.view(*rows.shape, *ring.shape[1:])

    def update_priority(self, index: Tensor, td_error: Tensor) -> None:
        """Proportional priorities |delta| (Schaul et al. 2016, section 3.3)."""
        self.buffer.update_priority(index.reshape(-1), td_error.abs().reshape(-1))

    def field(self, name: str) -> Tensor:
        """One column of the buffer: [rows, ...]."""
        return self.buffer.storage._storage[name]

    def end_episodes(self) -> None:
        """Mark the newest row of every environment as truncated: what follows does not continue it."""
        newest = torch.arange(self.count - self.num_envs, self.count) % self.capacity
        self.field("truncated")[newest] |= ~self.field("terminated")[newest]

    def capture(self, journal: Journal, saved: int) -> dict[str, Any]:
        """Write rows `saved` onwards to the journal; return the rest of the state as plain data."""
        begin, buffer = max(saved, self.count - self.capacity), np.empty(self._piece, journal.dtype)
        while begin < self.count:
            place = begin % self.capacity
            rows = buffer[: min(self.count - begin, self.capacity - place)]
            for name in journal.dtype.names or ():
                rows[name] = self.field(name)[place : place + len(rows)].numpy()
            journal.write(begin, rows)
            begin += len(rows)
        journal.sync()
        state: dict[str, Any] = {"count": self.count, "generator": self.generator.get_state()}
        if self.alpha is not None:
            state["priorities"] = self.buffer.sampler.state_dict()
        return state

    def restore(self, state: dict[str, Any], journal: Journal) -> None:
        """Restore the buffer from `capture` and the journal."""
        count = state["count"]
        first = max(0, count - self.capacity)
        self.buffer.writer.load_state_dict({"_cursor": first % self.capacity, "_write_count": first})
        for begin in range(first, count, self._piece):
            rows = journal.read(begin, min(begin + self._piece, count))
            columns = {name: torch.from_numpy(rows[name].copy()) for name in rows.dtype.names or ()}
            self.buffer.extend(TensorDict(columns, batch_size=[len(rows)]))
        self.count = count
        self.generator.set_state(state["generator"])
        if self.alpha is not None:
            self.buffer.sampler.load_state_dict(state["priorities"])

    @property
    def _piece(self) -> int:
        """Rows copied at a time: a buffer of pixels must not be in memory twice."""
        return max(1, min(self.capacity, 1024))
