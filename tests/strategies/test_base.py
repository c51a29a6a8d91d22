"""What is asked of a strategy, and of one that has no answers."""

from lightning.pytorch.strategies import DDPStrategy

from downpour.strategies import DataParallel, parallelism


def test_lightnings_own_strategies_answer_with_the_defaults() -> None:
    for strategy in ("auto", DDPStrategy()):
        known = parallelism(strategy)
        assert (known.in_step(4), known.ranks_per_replica, known.servers) == (4, 1, 0)
    ours = DataParallel()
    assert parallelism(ours) is ours


def test_a_step_of_the_optimizer_may_take_several_batches() -> None:
    assert DataParallel.batches_each({"accumulate": 4}) == 4
    assert type(parallelism("auto")).batches_each({}) == 1
