"""Downpour SGD: what one worker does is plain SGD; several survive each other."""

import json
import os
import secrets
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.commands import ROOT, SMALL, Commands, checkpoint, rows
from tests.ranks import free_port
from tests.strategies.servers import running, tensors
from tests.supervised import configuration, train
from tests.training import QUIET, composed

from downpour import directory as directories
from downpour import evaluate, experiment
from downpour.building import build_optimizer
from downpour.callbacks.checkpoint import Checkpoint
from downpour.checkpoints import same_ranks, write
from downpour.config import ConfigError
from downpour.run import Run
from downpour.strategies.downpour import Downpour
from downpour.strategies.launch import _listen
from downpour.strategies.remote import Remote
from downpour.trainer import Hardware
from downpour.validation import validate

DIGITS = ("algo=supervised", "eval_every=20", "data.updates=7", "schedule=cosine", "schedule.steps=80")
TWO = (*SMALL, "algo=dqn", "trainer=ddp_cpu", "strategy=downpour", "strategy.seconds=20")


def fit(config: dict[str, Any], directory: Path, servers: int = 1) -> None:
    """Train as the one worker of a run whose servers are threads of this process."""
    if not config["resume"]:
        directories.write_config(directory, config, {})
    with running(partial(build_optimizer, config), servers) as connect:
        experiment.fit(config, directory, connect(0))


def assert_same(run: Path, other: Path) -> None:
    mine, theirs = checkpoint(run), checkpoint(other)
    assert mine["step"] == theirs["step"]
    assert mine["gradient_steps"] == theirs["gradient_steps"] > 0
    for name, value in theirs["state_dict"].items():
        assert torch.equal(mine["state_dict"][name], value), name
    for a, b in zip(mine["optimizer_states"], theirs["optimizer_states"], strict=True):
        assert a["param_groups"] == b["param_groups"]
        assert a["state"].keys() == b["state"].keys()
        for index, state in b["state"].items():
            assert all(torch.equal(torch.as_tensor(a["state"][index][n]), torch.as_tensor(v)) for n, v in state.items())
    for row, expected in zip(rows(run / "metrics.csv"), rows(other / "metrics.csv"), strict=True):
        names = [name for name in expected if not name.startswith("test/")]  # looked at where a run ends
        assert [row[name] for name in names] == [expected[name] for name in names]


@pytest.mark.parametrize(("servers", "optimizer"), [(1, "sgd"), (2, "adagrad")])
def test_one_worker_is_plain_sgd(tmp_path: Path, servers: int, optimizer: str) -> None:
    options = (*DIGITS, f"optimizer={optimizer}", "callbacks.recorder.every=10")
    train(tmp_path / "plain", *options, "total_gradient_steps=80")
    downpour = (*options, "strategy=downpour", f"strategy.servers={servers}")
    run = tmp_path / "downpour"
    fit(configuration(run, *downpour, "total_gradient_steps=40"), run, servers)
    again = configuration(run, *downpour, "total_gradient_steps=80")
    fit({**again, "resume": str(run)}, run, servers)
    assert_same(run, tmp_path / "plain")
    staleness = rows(run / "staleness.csv")
    assert [row["server"] for row in staleness] == [str(server) for server in range(servers)]
    assert {(row["staleness"], row["updates"]) for row in staleness} == {("0", "80")}


def test_several_optimizers(tmp_path: Path) -> None:
    options = (*QUIET, "algo=td3", "env=pendulum", "model.hidden=[16]", "data.learning_starts=64", "data.updates=3")
    options = (
        *options,
        "total_env_steps=1024",
        "eval_every=512",
        "data.num_envs=4",
        "logger=csv",
        "algo.random_steps=0",
    )
    for name, strategy in (("plain", "auto"), ("downpour", "downpour")):
        config = validate(composed(*options, f"strategy={strategy}"))
        directories.write_config(tmp_path / name, config, {})
        experiment.fit(config, tmp_path / name) if strategy == "auto" else fit(config, tmp_path / name, 2)
    assert_same(tmp_path / "downpour", tmp_path / "plain")


@pytest.mark.parametrize(("n_push", "n_fetch", "local"), [(1, 3, True), (2, 3, False), (4, 2, True)])
def test_pushing_and_fetching_now_and_then(n_push: int, n_fetch: int, local: bool) -> None:
    """Dean et al. (2012), Algorithm 1.1, line by line."""
    alpha = 0.1
    make = partial(torch.optim.SGD, lr=alpha)
    with running(make) as connect:
        link = connect(0)
        mine = [torch.nn.Parameter(t) for t in tensors(0)]
        link.divide([mine])
        link.create([mine])
        remote = Remote(make(mine), 0, link, n_push=n_push, n_fetch=n_fetch, local_steps=local)
        server = tensors(0)
        parameters, accrued = [t.clone() for t in server], [torch.zeros_like(t) for t in server]
        for step in range(1, 20):
            gradients = tensors(step)
            for parameter, gradient in zip(mine, gradients, strict=True):
                parameter.grad = gradient
            remote.step()
            accrued = [a + g for a, g in zip(accrued, gradients, strict=True)]
            if local:
                parameters = [p - alpha * g for p, g in zip(parameters, gradients, strict=True)]
            if step % n_push == 0:
                server = [p - alpha * a for p, a in zip(server, accrued, strict=True)]
                accrued = [torch.zeros_like(a) for a in accrued]
            if step % n_fetch == 0:
                parameters = [p.clone() for p in server]
            assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, parameters, strict=True)), step
        remote.flush()
        server = [p - alpha * a for p, a in zip(server, accrued, strict=True)]
        link.fetch(0, mine)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, server, strict=True))


def test_overlapped_pushes_come_in_order_a_step_later() -> None:
    """With one worker each gradient but the first is one update old; and the order matters, for momentum."""
    make = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    with running(make, 2) as connect, ThreadPoolExecutor(1) as pool:
        link, mine = connect(0), [torch.nn.Parameter(t) for t in tensors(0)]
        link.divide([mine])
        link.create([mine])
        remote = Remote(make(mine), 0, link, n_push=1, n_fetch=1, local_steps=True, pool=pool)
        theirs = [torch.nn.Parameter(t) for t in tensors(0)]
        optimizer = make(theirs)
        for step in range(1, 13):
            before = [t.detach().clone() for t in theirs]
            for own, other, gradient in zip(mine, theirs, tensors(step), strict=True):
                own.grad, other.grad = gradient, gradient.clone()
            remote.step()
            for own in mine:
                assert own.grad is not None
                own.grad.zero_()  # what is on its way is a copy
            assert all(torch.equal(a, b) for a, b in zip(mine, before, strict=True)), step
            optimizer.step()
            if step % 6 == 0:  # as at the end of a round
                remote.settle()
                assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        for each in link.statistics()[0]:
            assert each["staleness"] == [[0, 0, 2], [0, 1, 10]]


def test_an_overlapped_push_is_not_waited_for() -> None:
    make = partial(torch.optim.SGD, lr=0.1)
    with running(make, workers=2, needed=2) as connect, ThreadPoolExecutor(1) as pool:
        links, copies = [connect(0), connect(1)], [[torch.nn.Parameter(t) for t in tensors(0)] for _ in range(2)]
        for link, own in zip(links, copies, strict=True):
            link.divide([own])
        links[0].create([copies[0]])
        remote = Remote(make(copies[0]), 0, links[0], n_push=1, n_fetch=1, local_steps=True, pool=pool)
        for own, gradient in zip(copies[0], tensors(1), strict=True):
            own.grad = gradient
        remote.step()  # the server answers when the other has pushed, too
        links[1].push(0, tensors(2), copies[1])
        remote.settle()
        for own, other, start, one, two in zip(*copies, *map(tensors, range(3)), strict=True):
            assert torch.equal(own, other)
            assert torch.allclose(own, start - 0.05 * (one + two), atol=1e-6)


def test_a_run_that_overlaps(tmp_path: Path) -> None:
    """A whole run: counted and saved as ever."""
    run = tmp_path / "run"
    config = configuration(run, *DIGITS, "strategy=downpour", "strategy.overlap=true", "total_gradient_steps=40")
    fit(config, run, 2)
    assert checkpoint(run)["gradient_steps"] == 40
    ages = {row["staleness"]: int(row["updates"]) for row in rows(run / "staleness.csv") if row["server"] == "0"}
    rounds = 2 * 3  # of seven steps, an evaluation each twenty
    assert ages == {"0": rounds, "1": 40 - rounds}


def process(run: Path, role: str, rank: int = 0) -> list[int]:
    """The process of a run that is a server or a worker."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
            if role.encode() in arguments and str(run).encode() in arguments:
                variables = (path.parent / "environ").read_bytes().split(b"\0")
                found += [int(path.parent.name)] if f"RANK={rank}".encode() in variables else []
        except OSError:
            continue
    return found


def found(path: Path) -> list[dict[str, str]]:
    return rows(path) if path.exists() else []


@pytest.mark.slow
def test_workers_and_servers_that_die(commands: Commands) -> None:
    """Two Gorila-style learners: one is killed; the run goes on, is stopped, resumed, and loses its server."""
    run = commands.folder / "run"
    length = "total_env_steps=1000000"
    running = commands.start(*TWO, f"hydra.run.dir={run}", length)
    last = run / "checkpoints" / "last.ckpt"
    running.wait_until(lambda: {"0", "1"} <= {row["worker"] for row in found(run / "staleness.csv")})
    running.wait_until(lambda: any(int(row["environment"]) >= 4 for row in found(run / "episodes.csv")))
    before = last.stat().st_mtime_ns if last.exists() else 0
    running.wait_until(lambda: last.exists() and last.stat().st_mtime_ns > before)
    (victim,) = process(run, "worker", 1)
    os.kill(victim, signal.SIGKILL)
    running.wait_until(lambda: "worker 1 has gone" in (run / "train.log").read_text())
    before = len(rows(run / "metrics.csv"))
    running.wait_until(lambda: len(rows(run / "metrics.csv")) > before + 12)
    running.kill(signal.SIGTERM)
    ended = running.wait()
    assert ended.code == 128 + signal.SIGTERM
    lines = [line for line in ended.err.splitlines() if not line.startswith("trainer.devices=2, ")]  # few cores
    assert lines[0] == "running in run"
    (told,) = (line for line in lines if line.startswith("worker 1 has gone ("))
    assert told.endswith("): the run goes on without it")
    assert lines[-2:] == ["stopped by SIGTERM; the run is saved. To resume:", "  python src/train.py resume=run"]
    assert all(line.startswith("env_steps") or line in (lines[0], told, *lines[-2:]) for line in lines)
    assert not process(run, "worker", 0) and not process(run, "server")
    saved = checkpoint(run)
    assert len(saved["ranks"]) == 2 and saved["ranks"][1]["gradient_steps"] > 0  # what it had said while it lived
    assert {int(row["environment"]) // 4 for row in rows(run / "episodes.csv")} == {0, 1}
    assert {row["worker"] for row in rows(run / "staleness.csv")} == {"0", "1"}
    metrics = [row for row in rows(run / "metrics.csv") if row["strategy/updates"]]
    assert float(metrics[-1]["strategy/updates"]) >= float(metrics[-1]["train/gradient_steps"]) - 2 * 2
    assert evaluate.main([f"run={run}", "episodes=2", "checkpoint=last"], ROOT / "conf" / "eval.yaml") == 0

    before = len(rows(run / "metrics.csv"))
    running = commands.start(f"resume={run}")
    running.wait_until(lambda: len(rows(run / "metrics.csv")) > before + 12 and process(run, "worker", 1))
    steps = [int(row["env_steps"]) for row in rows(run / "metrics.csv")]
    assert steps == sorted(steps)
    os.kill(process(run, "server")[0], signal.SIGKILL)
    ended = running.wait()
    assert ended.code == 1
    assert ended.err.splitlines()[-2:] == [
        "error: parameter server 0 was ended by SIGKILL",
        "resume from the last checkpoint: python src/train.py resume=run",
    ]
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    for _ in range(100):
        if not process(run, "worker", 1):
            break
        time.sleep(0.1)
    assert not process(run, "worker", 1)


NODES = (*SMALL, "algo=dqn", "strategy=downpour", "strategy.seconds=20", "trainer=multi_node", "trainer.devices=1")


@pytest.mark.slow
def test_two_nodes(commands: Commands) -> None:
    port, secret = free_port(), {"DOWNPOUR_TOKEN": secrets.token_hex(32)}
    nodes = [Commands(commands.folder / name) for name in ("node0", "node1")]
    running = []
    for number, node in enumerate(nodes):
        node.folder.mkdir()
        where = (f"trainer.port={port}", f"trainer.node_rank={number}", f"hydra.run.dir={commands.folder}/run")
        running.append(node.start(*NODES, *where, environment=secret))
    ended = [each.wait() for each in running]
    assert [each.code for each in ended] == [0, 0], ended
    assert ended[1].text == ""
    assert {row["worker"] for row in rows(commands.folder / "run" / "staleness.csv")} == {"0", "1"}


@pytest.mark.slow
def test_a_node_that_reaches_no_server_says_so(commands: Commands) -> None:
    options = (*NODES, "strategy.seconds=0.3", "trainer.node_rank=1")
    secret, advice = {"DOWNPOUR_TOKEN": "00" * 32}, "error: strategy: server 0 at 127.0.0.1:{} cannot be used{}"
    port = free_port()
    ended = commands.run(*options, f"trainer.port={port}", environment=secret)
    assert (ended.code, ended.err) == (1, advice.format(port, " after 0.3 s: Connection refused\n"))
    with running(partial(torch.optim.SGD, lr=0.1)) as connect:  # which knows another secret
        port = connect(0).addresses[0][1]
        ended = commands.run(*options, f"trainer.port={port}", environment=secret)
    assert (ended.code, ended.err) == (1, advice.format(port, ": it has closed the connection\n"))


def test_a_port_in_use(commands: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = commands.run(*TWO, f"trainer.port={port}")
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert f"trainer.port={port}: no parameter server can listen at 127.0.0.1 (Address already in use)" in line


def no_such_host(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(
    ("address", "port", "key", "why"),
    [
        ("no-such-host.invalid", 29500, "trainer.address=no-such-host.invalid", "not known"),
        ("192.0.2.1", 29500, "trainer.address=192.0.2.1", "Cannot assign requested address"),  # of nobody (RFC 5737)
        ("127.0.0.1", 65535, "trainer.port=65536", "port must be 0-65535"),
    ],
)
def test_an_address_or_a_port_that_does_not_exist(
    address: str, port: int, key: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not address[0].isdigit():
        monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    hardware = Hardware(accelerator="cpu", nodes=2, address=address, port=port)
    with pytest.raises(
        ConfigError, match=rf"{key}: no parameter server can listen at {address} \(.*{why}.*\); name an"
    ):
        _listen(2, hardware)


def test_a_worker_that_posted_nothing_starts_anew(tmp_path: Path) -> None:
    """And a run of two workers saves two parts, also if four had begun it."""
    posted: list[tuple[int, Any]] = [(1, "b2")]
    module: Any = torch.nn.Linear(1, 1)
    link: Any = SimpleNamespace(
        collect=lambda box, ask: posted, join=lambda: {"weights": module.state_dict(), "ranks": {0: {}, 1: None}}
    )
    strategy = Downpour(Hardware(accelerator="cpu", devices=2))
    strategy.attach(link, Run(tmp_path, 0, 10, 10, 0, rank=1, world_size=2, asynchronous=True))
    strategy._states = dict(enumerate(["a", "b", "c", None]))
    own: Any = "a2"
    assert strategy.gather_states(own) == ["a2", "b2"]
    reported: list[bool] = []
    strategy._lightning_module, strategy._sets = module, []  # type: ignore[assignment]
    strategy.report = lambda: reported.append(True)  # type: ignore[assignment, method-assign, return-value, func-returns-value]
    strategy.on_train_start()
    assert reported


@pytest.mark.parametrize("by", ["downpour", None])
def test_another_strategy_goes_on_at_the_step_of_all_workers(tmp_path: Path, by: str | None) -> None:
    """A checkpoint of two workers, resumed in one process: of asynchronous ones, each has counted its own steps."""
    options = (*DIGITS, "callbacks.recorder.every=10")
    train(tmp_path, *options, "total_gradient_steps=40")
    saved = checkpoint(tmp_path)
    own = saved["ranks"][0]
    parts = [{**own, "stream": {"step": n}, "gradient_steps": n} for n in ((17, 23) if by else (40, 40))]
    write({**saved, "ranks": parts, "replicas": 2, "asynchronous": by}, tmp_path / "checkpoints" / "last.ckpt")
    seen: list[int] = []
    longer = configuration(tmp_path, *options, "total_gradient_steps=80")
    begin = Checkpoint.on_train_start

    def note(self: Checkpoint, trainer: Any, module: Any) -> None:
        begin(self, trainer, module)
        seen.extend([trainer.datamodule.step, module.gradient_steps])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "on_train_start", note)
        experiment.fit({**longer, "resume": str(tmp_path)}, tmp_path)
    assert seen == [40, 40]
    assert checkpoint(tmp_path)["gradient_steps"] == checkpoint(tmp_path)["step"] == 80
    steps = [int(row["gradient_steps"]) for row in rows(tmp_path / "metrics.csv")]
    assert steps == sorted(steps) and steps[-1] == 80


@pytest.mark.parametrize(
    ("ranks", "replicas", "by", "run", "same"),
    [
        (2, 2, "downpour", {"world_size": 2, "asynchronous": True}, True),
        (2, 2, None, {"world_size": 2, "asynchronous": True}, False),
        (2, 2, "backup_workers", {"world_size": 2, "asynchronous": True}, False),
        (2, 2, "downpour", {"world_size": 2}, False),
        (2, 2, None, {"world_size": 2}, True),
        (4, 4, None, {"world_size": 2}, False),
        (4, 2, None, {"world_size": 4, "ranks_per_replica": 2}, True),
        (4, 4, None, {"world_size": 4, "ranks_per_replica": 2}, False),
    ],
)
def test_ranks_find_their_own_part_if_they_count_alike(
    ranks: int, replicas: int, by: str | None, run: dict[str, Any], same: bool
) -> None:
    strategy = Downpour(Hardware(accelerator="cpu"))
    saved = {"ranks": [{}] * ranks, "replicas": replicas, "asynchronous": by}
    assert same_ranks(saved, Run(Path(), 0, 10, 10, 0, **run), strategy) == same


def test_what_cannot_be(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    from downpour.launch import launcher

    config = {"strategy": {"_target_": "downpour.strategies.downpour.Downpour"}}
    with pytest.raises(ConfigError, match="several nodes need a common secret: set DOWNPOUR_TOKEN"):
        start = launcher(config, Hardware(accelerator="cpu"))
        assert start is not None
        start(config, commands.folder, Hardware(accelerator="cpu", nodes=2, port=1))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "somebody's")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="strategy=Downpour: starts its own processes: do not use torchrun"):
        launcher(config, Hardware(accelerator="cpu", devices=2))
