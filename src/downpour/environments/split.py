"""Environment steps in two halves, so that environments step in the background."""

from collections.abc import Callable
from typing import Any

from gymnasium.vector import AsyncVectorEnv, VectorActionWrapper, VectorEnv


def halves(environments: VectorEnv) -> tuple[Callable[[Any], Any], Callable[[], Any]] | None:
    """(begin a step with actions, take its results); None if a step cannot be divided."""
    inner: Any = environments.unwrapped
    if isinstance(inner, AsyncVectorEnv):
        send, receive = inner.step_async, inner.step_wait
    elif hasattr(inner, "send"):
        send, receive = inner.send, inner.recv
    else:
        return None
    if isinstance(environments, VectorActionWrapper):
        return lambda actions: send(environments.actions(actions)), receive
    return send, receive
