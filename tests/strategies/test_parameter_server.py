"""The parameter server against Torch's optimizers and a count of what happened when."""

import random
import socket
from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from tests.strategies.servers import SIZES, running, tensors
from torch import nn

from downpour.failures import Failed
from downpour.learning_rate import Cosine, follow
from downpour.strategies.blocks import Block, divide, shape_of
from downpour.strategies.link import Link
from downpour.strategies.transport import listen

OPTIMIZERS: dict[str, Any] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adagrad": partial(torch.optim.Adagrad, lr=0.1, initial_accumulator_value=0.3),
    "adam": partial(torch.optim.Adam, lr=0.01, fused=True),
    "scheduled": lambda parameters: follow(torch.optim.SGD(parameters, lr=0.1), Cosine(steps=10, warmup=3)),
}


@pytest.mark.parametrize("servers", [1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_as_torch_does_it(name: str, servers: int) -> None:
    make = OPTIMIZERS[name]
    theirs = [nn.Parameter(t) for t in tensors(0)]
    optimizer = make(theirs)
    with running(make, servers) as connect:
        link, mine = connect(0), tensors(0)
        link.divide([mine])
        link.create([mine])
        for step in range(12):
            gradients: list[Any] = tensors(step + 1)
            gradients[step % len(SIZES)] = None  # as where a parameter took no part in the loss
            for parameter, gradient in zip(theirs, gradients, strict=True):
                parameter.grad = None if gradient is None else gradient.clone()
            optimizer.step()
            link.push(0, gradients, mine)
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)), step


def test_staleness_is_what_happened_in_between() -> None:
    """Three workers push and fetch in a random order; the oracle keeps the history."""
    rng, history = random.Random(0), []
    with running(partial(torch.optim.SGD, lr=0.01), 2, workers=3, bound=4, aware=True) as connect:
        links = [connect(rank) for rank in range(3)]
        copies = [tensors(0) for _ in links]
        for link, own in zip(links, copies, strict=True):
            link.divide([own])
        links[0].create([copies[0]])
        truth, fetched = tensors(0), [0, 0, 0]
        counted: Counter[tuple[int, int]] = Counter()
        for event in range(120):
            worker = rng.choice([0, 0, 0, 1, 2])  # 0 is fast
            if rng.random() < 0.2:
                links[worker].fetch(0, copies[worker])
                fetched[worker] = len(history)
            else:
                gradient, wants = tensors(event), rng.random() < 0.5
                age = len(history) - fetched[worker]
                told = links[worker].push(0, gradient, copies[worker] if wants else None)
                assert told == age
                counted[worker, age] += 1
                if age <= 4:
                    truth = [t - 0.01 / max(1, age) * g for t, g in zip(truth, gradient, strict=True)]
                    history.append(worker)
                if wants:
                    fetched[worker] = len(history)
                    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(copies[worker], truth, strict=True))
        assert max(age for _, age in counted) > 4
        for found in links[0].statistics()[0]:
            assert {(worker, age): count for worker, age, count in found["staleness"]} == counted
            assert found["updates"] == len(history)
            assert found["dropped"] == sum(count for (_, age), count in counted.items() if age > 4)


def test_captured_and_restored() -> None:
    make = OPTIMIZERS["adam"]
    with running(make, 2) as connect:
        link, mine = connect(0), tensors(0)
        link.divide([mine, mine[:1]])  # two optimizers, one of fewer tensors than there are servers
        link.create([mine, mine[:1]])
        for step in range(3):
            link.push(0, tensors(step), mine)
        state = link.capture()
        link.push(0, tensors(7), mine)
        expected = [t.clone() for t in mine]
        link.restore(state)
        link.fetch(0, mine)
        assert not torch.equal(mine[0], expected[0])
        link.push(0, tensors(7), mine)
        assert all(torch.equal(a, b) for a, b in zip(mine, expected, strict=True))
        assert link.capture()[0]["sets"][0]["version"] == 4


@pytest.mark.parametrize("large", [1, 200])
def test_whatever_comes_after_whatever(large: int) -> None:
    """Where the next content goes is guessed from the last; a wrong guess costs nothing but a copy."""
    rng = random.Random(large)
    sizes = [[(large, 5), (3,)], [(large, 400), (2,)], [(1,)]]
    with running(partial(torch.optim.SGD, lr=0.5), workers=2) as connect:
        link, other = connect(0), connect(1)
        mine = [tensors(number, own) for number, own in enumerate(sizes)]
        truth = [[t.clone() for t in own] for own in mine]
        link.divide(mine)
        link.create(mine)
        posted = []
        for event in range(60):
            what, number = rng.choice(["push", "fetch", "post", "collect", "report"]), rng.randrange(3)
            if what == "push":
                gradients = tensors(100 + event, sizes[number])
                link.push(number, gradients, mine[number])
                truth[number] = [t - 0.5 * g for t, g in zip(truth[number], gradients, strict=True)]
            elif what == "fetch":
                link.fetch(number, mine[number])
            elif what == "post":
                posted.append([event] * rng.randrange(large * 50))
                link.post(0, posted[-1])
            elif what == "collect":
                assert [item for _, item in link.collect(0)] == posted
                posted = []
            else:
                other.report(event, 1)
                link.report(1, 1)
                assert link.others.steps == event
            for own, theirs in zip(mine, truth, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(own, theirs, strict=True)), (event, what)


def test_more_tensors_than_one_call_can_send() -> None:
    with running(partial(torch.optim.SGD, lr=0.5)) as connect:
        link = connect(0)
        mine = tensors(0, [(2,)] * 1500)
        truth = [t.clone() for t in mine]
        link.divide([mine])
        link.create([mine])
        gradients = tensors(1, [(2,)] * 1500)
        link.push(0, gradients, mine)
        assert all(torch.equal(t, a - 0.5 * g) for t, a, g in zip(mine, truth, gradients, strict=True))


def test_a_stranger_is_refused() -> None:
    with running(OPTIMIZERS["sgd"]) as connect:
        with pytest.raises(Failed, match=r"strategy: server 0 at .* cannot be used: it has closed the conn"):
            connect(0, bytes(32))
        link, mine = connect(0), tensors(0)  # and the server still serves
        link.divide([mine])
        link.create([mine])
        link.push(0, tensors(1), mine)


def test_an_impostor_is_refused() -> None:
    """A server that does not know the secret gets no gradients."""
    with socket.create_server(("127.0.0.1", 0)) as impostor, pytest.raises(Failed, match="cannot be used"):
        import threading

        def answer() -> None:
            connection, _ = impostor.accept()
            connection.sendall(bytes(32))
            connection.recv(64)
            connection.sendall(bytes(32))

        threading.Thread(target=answer, daemon=True).start()
        Link([impostor.getsockname()], bytes(32), 0, 5)


def test_nobody_there() -> None:
    with listen("127.0.0.1", None) as probe:
        address = probe.getsockname()
    with pytest.raises(Failed, match=rf"server 0 at 127.0.0.1:{address[1]} cannot be used after 0.3 s: Connection ref"):
        Link([address], bytes(32), 0, 0.3)


def test_division_and_layout() -> None:
    mixed = [torch.ones(3, dtype=torch.bfloat16), torch.ones(2, 2), torch.ones(()), torch.ones(0), torch.ones(64)]
    shapes = [shape_of(t) for t in mixed]
    assert divide(shapes, 2) == [[4], [0, 1, 2, 3]]
    assert sorted(i for part in divide(shapes, 9) for i in part) == [0, 1, 2, 3, 4]
    block = Block(shapes)
    assert block.size == sum(t.nbytes for t in mixed)
    for value, (to, tensor) in enumerate(zip(block.tensors, mixed, strict=True)):
        assert (to.shape, to.dtype) == (tensor.shape, tensor.dtype)
        to.fill_(value)
    assert [float(t.sum() / max(1, t.numel())) for t in block.tensors] == [0, 1, 2, 0, 4]


def test_workers_leave_word_for_each_other() -> None:
    with running(OPTIMIZERS["sgd"], workers=3) as connect:
        first, second, third = (connect(rank) for rank in range(3))
        assert second.report(10, 3) == []
        assert third.report(5, 4) == []
        assert first.report(1, 1) == []
        assert (first.others.steps, first.others.gradient_steps) == (15, 7)
        second.post(0, [1, 2])
        second.post(0, [3])
        assert first.collect(0) == [(1, [1, 2]), (1, [3])]
        assert first.collect(0) == []
        third.leave("ArithmeticError: the world has ended")
        second.channels[0].close()  # as the system does for a process that is killed
        gone: dict[int, str] = {}
        while len(gone) < 2:
            gone |= dict(first.report(2, 2))
        assert gone.pop(2) == "ArithmeticError: the world has ended"
        assert gone[1]
        assert first.collect(1, ask=True) == []  # nobody is left to wait for
        assert (first.others.steps, first.others.gradient_steps) == (15, 7)  # what they did is done
