"""What does not go together is told in one message, before anything is built; with what would."""

import pytest
from tests.training import composed

from downpour.config import ConfigError
from downpour.validation import validate

REFUSED = {
    "env=none": "env=none: data=replay needs an environment: choose another option of env",
    "algo=ppo env=none": "env=none: data=rollout needs an environment",
    "algo=value_iteration env=none": "env=none: data=model needs an environment",
    "algo=dqn data=digits": "data=dataset: DQN learns from data=replay",
    # callbacks
    "algo=supervised callbacks=default": "callbacks.evaluation=Evaluation: needs an environment, but env=none: use "
    "callbacks=classification, regression or generation",
    "algo=supervised callbacks=early_stop": "callbacks.evaluation=Evaluation: needs an environment",
    "algo=supervised callbacks=video": "callbacks.evaluation=Evaluation: needs an environment",
    "algo=supervised callbacks=default env=cartpole": "callbacks.evaluation=Evaluation: is for algorithms that act in "
    "an environment; Supervised does not: use callbacks=classification, regression or generation",
    "algo=dqn callbacks=classification": "callbacks.validation=Validation: is for algorithms that learn "
    "from a data set; DQN does not: use callbacks=default",
    "algo=supervised callbacks=generation": "callbacks.samples=Samples: is for algorithms that make samples",
    # optimizers that evaluate the loss themselves
    "algo=dqn optimizer=lbfgs": "optimizer=LBFGS: evaluates the loss several times a gradient step, DQN does so once: "
    "use algo=supervised",
    "algo=gan optimizer=lbfgs": "optimizer=LBFGS: evaluates the loss several times",
    # precisions of all numbers
    "trainer.precision=bf16-true": "trainer.precision=bf16-true: is for data sets only; DoubleDQN acts in an "
    "environment: use bf16-mixed or 32-true",
    "algo=ppo trainer.precision=64-true": "trainer.precision=64-true: is for data sets",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_does_not_go_together(typed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(composed(*typed.split()))
    assert str(caught.value).startswith(REFUSED[typed])
    assert "\n" not in str(caught.value)


ACCEPTED = [
    "algo=supervised optimizer=lbfgs",
    "algo=supervised trainer.precision=64-true",
    "algo=gan trainer.precision=bf16-true",
    "algo=q_learning callbacks=value_distance env=frozen_lake model=table",
    "algo=value_iteration env=frozen_lake callbacks=overestimation",
    "algo=dqn callbacks=video trainer.precision=16-mixed",
    "algo=ppo callbacks=early_stop gamma=0",
]


@pytest.mark.parametrize("typed", ACCEPTED)
def test_what_goes_together(typed: str) -> None:
    validate(composed(*typed.replace(" gamma=0", " algo.gamma=0").split()))
