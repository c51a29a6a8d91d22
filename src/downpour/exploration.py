"""Schedules of exploration parameters over environment steps."""

from downpour.config import NonNegativeInt, Probability


class Linear:
    """From `start` to `end` over the first `steps` environment steps, then constant."""

    def __init__(self, *, start: float, end: float, steps: NonNegativeInt):
        """
        Args:
            start: value at step 0.
            end: value from `steps` on.
            steps: duration of the change, in environment steps; 0 is the constant `end`.
        """
        self.start, self.end, self.steps = start, end, steps

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * step / self.steps


class LinearProbability(Linear):
    """A linear schedule of a probability."""

    def __init__(self, *, start: Probability, end: Probability, steps: NonNegativeInt):
        super().__init__(start=start, end=end, steps=steps)
