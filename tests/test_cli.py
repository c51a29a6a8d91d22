"""The command line: what a person gets wrong is answered in one message that helps, and leaves nothing behind."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tests.commands import DOOR, ROOT, SMALL, Commands, Ended, assert_same, rows

GPUS = torch.cuda.device_count()

BAD_INPUT = {
    # unknown keys, options and groups, with the nearest spelling
    "algo.gama=0.9": "algo.gama=0.9: there is no such key; did you mean algo.gamma?",
    "data.foo=3": "data.foo=3: there is no such key; data has: gamma, num_envs",
    "totl_env_steps=5": "totl_env_steps=5: there is no such key; did you mean total_env_steps?",
    "+algo.targt_every=3": "algo.targt_every=3: DoubleDQN has no such setting; did you mean target_every?",
    "+foo=1": "foo=1: a run has no such setting",
    "~foo": "~foo: there is no such key to delete",
    "algo=dqnn": "algo=dqnn: there is no such option; did you mean dqn? (there are: actor_critic",
    "loger=csv": "loger=csv: there is no such key; did you mean logger?",
    "experiment/without=noise": "experiment/without=noise: is a part of other options; add one of experiment=rainbow",
    "algo=5": "algo=5: is not an option (there are: actor_critic",
    "model=null": "model=null: is not an option",
    "hydra/launcher=nope": "hydra/launcher=nope: there is no such option (there are: basic",
    "--nope": "unrecognized arguments: --nope",
    # syntax
    "algo": "algo: is not of the form key=value",
    "=3": "=3: is not of the form key=value",
    "a,b": "a,b: is not of the form key=value",
    "algo.gamma=[1": "algo.gamma=[1: cannot be parsed",
    "seed=1,2": "seed=1,2: several values: add -m to run a job for each",
    # types and ranges
    "optimizer.lr=abc": "optimizer.lr=abc: must be a valid number",
    "optimizer.lr=-1": "optimizer.lr=-1: must be greater than 0",
    "optimizer.betas=[2,0.9]": "optimizer.betas=[2, 0.9]: must be less than or equal to 1",
    "total_env_steps=1.5": "total_env_steps=1.5: must be a valid integer",
    "seed=-1": "seed=-1: must be greater than or equal to 0",
    "seed=1e30": "seed=1e+30: ",
    "algo.loss=cubed": "algo.loss=cubed: must be 'squared' or 'huber'",
    "data.replay=maybe": "data.replay=maybe: must be a valid boolean",
    "+callbacks.x=3": "callbacks.x=3: names nothing that could be built",
    # what does not fit together, or is not there
    "env.id=CartPol-v1": "env.id=CartPol-v1: no environment of that name is registered; nearest:",
    "env.id=Pendulum-v1": "algo=DoubleDQN: needs discrete actions",
    "env.id=nosuchpackage:World-v0": "env.id=nosuchpackage:World-v0: needs the package nosuchpackage",
    "model=table ~model.hidden": "model=table: needs a discrete observation",
    "algo._target_=os.system": "algo._target_=os.system: would build a class which is not part of downpour, torch",
    "optimizer._target_=torch.os.system": "optimizer._target_=torch.os.system: no such class",
    "optimizer=sgd optimizer.nesterov=true": "optimizer=SGD: Nesterov momentum requires a momentum",
    "trainer.nodes=2": "trainer.port=null: must be set for several nodes",
    "strategy=fsdp strategy.tensor_parallel=2": "strategy.tensor_parallel=2: does not divide the 1 rank(s)",
    "trainer.cuda_graph=true": "trainer.cuda_graph=true: needs trainer=gpu (trainer.accelerator is cpu)",
    "resume=nosuch": "resume=nosuch: is not a run directory",
    "resume=.": "resume=.: is not a run directory",
}


def assert_one_message(ended: Ended, code: int = 2) -> None:
    assert ended.code == code, ended.text
    told = [line for line in ended.err.splitlines() if not line.startswith("running in")]
    assert told[0].startswith("error: "), ended.text
    assert ended.text.count("error: ") == 1
    assert len(told) <= 3
    assert "Traceback" not in ended.text
    assert "Error executing job" not in ended.text
    assert ended.out == ""


@pytest.mark.parametrize("typed", BAD_INPUT)
def test_bad_input(commands: Commands, typed: str) -> None:
    deleted = [o[1:] for o in typed.split() if o.startswith("~") and o != "~foo"]
    arguments = [o for o in SMALL if o.partition("=")[0] not in deleted]
    added = [o for o in typed.split() if o[1:] not in deleted]
    ended = commands.run(*arguments, *added)
    assert_one_message(ended)
    assert BAD_INPUT[typed] in ended.err
    assert [p.name for p in commands.folder.iterdir()] == ["process1"]  # no run directory is left


@pytest.mark.skipif(GPUS >= 4, reason="four GPUs are what is asked for")
@pytest.mark.parametrize("trainer", ["gpu", "ddp_4gpu", "fsdp_4gpu"])
def test_too_few_gpus(commands: Commands, trainer: str) -> None:
    if trainer == "gpu" and GPUS:
        pytest.skip("there is a GPU")
    ended = commands.run(f"trainer={trainer}")
    assert_one_message(ended)
    assert len(ended.err.splitlines()) == 1
    assert f"this machine has {GPUS}: use trainer={'cpu' if GPUS == 0 else 'gpu'}" in ended.err


def test_debug_full_shows_the_traceback(commands: Commands) -> None:
    ended = commands.run(*SMALL, "env.id=CartPol-v1", "debug=full")
    assert ended.code == 2
    assert "Traceback" in ended.err
    assert ended.err.splitlines()[-1].startswith("error: env.id=CartPol-v1: ")


def test_a_missing_extra_is_named(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "Box2D.py").write_text("raise ModuleNotFoundError('no Box2D', name='Box2D')")
    ended = commands.run(
        *SMALL, "env.id=LunarLander-v3", environment={"PYTHONPATH": str(tmp_path / "missing")}, fork=False
    )
    assert_one_message(ended)
    assert "env.id=LunarLander-v3: needs a package that is not installed" in ended.err


def test_a_run_is_not_written_over(commands: Commands, copy_of_run: Callable[[str], Path], finished_run: Path) -> None:
    run = copy_of_run("run")
    for arguments in (("hydra.run.dir=run",), ("hydra.run.dir=run", "seed=1")):
        ended = commands.run(*SMALL, *arguments)
        assert_one_message(ended)
        assert "already contains a run; choose another directory, or resume it with resume=DIR" in ended.err
    assert_same(run, finished_run)
    (tmp := commands.folder / "mine").mkdir()
    (tmp / "notes.txt").write_text("keep")
    assert commands.run(*SMALL, "seed=-1", "hydra.run.dir=mine").code == 2
    assert (tmp / "notes.txt").read_text() == "keep"


def refuse_late() -> None:
    """Have the stream find bad input in a late round."""
    from downpour.config import ConfigError
    from downpour.data.replay_data import ReplayData

    next_round = ReplayData._next_round

    def refuse(self: ReplayData) -> object:
        if self.step >= 640:
            raise ConfigError("data.batch_size", 16, "too late")
        return next_round(self)

    ReplayData._next_round = refuse  # type: ignore[assignment, method-assign]


def test_bad_input_that_is_found_late_loses_nothing(commands: Commands, finished_run: Path) -> None:
    run = commands.folder / "run"
    ended = commands.run(*SMALL, "hydra.run.dir=run", sabotage=refuse_late)
    assert ended.code == 2
    assert ended.err.splitlines()[-2:] == [
        "error: data.batch_size=16: too late",
        "resume from the last checkpoint: python src/train.py resume=run",
    ]
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["step"] == 512
    assert commands.run("resume=run").code == 0
    assert_same(run, finished_run)


def refuse_beside_another_node() -> None:
    """Have the run find bad input when node 0 has begun to write."""
    from downpour import jobs
    from downpour.failures import Failed

    def run(config: object, directory: Path, *rest: object) -> None:
        (directory / "config.yaml").write_text("node 0's")
        raise Failed(2, "seed=0: refused")

    jobs.run = run  # type: ignore[assignment]


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_removes_nothing_of_node_0(commands: Commands, node: int) -> None:
    arguments = ("trainer=multi_node", f"trainer.node_rank={node}", "hydra.run.dir=shared")
    ended = commands.run(*SMALL, *arguments, sabotage=refuse_beside_another_node)
    assert_one_message(ended)
    assert (commands.folder / "shared" / "config.yaml").exists() == (node == 1)


def lock_first() -> None:
    """Have another process take the directory between this one's first look at it and its lock."""
    from downpour import directory as directories

    locked, held = directories.locked, []

    def late(directory: Path) -> object:
        held.append(open(directory / ".lock", "a"))  # noqa: SIM115 (as long as the process)
        fcntl.flock(held[-1], fcntl.LOCK_EX)
        (directory / "config.yaml").write_text("another's")
        return locked(directory)

    directories.locked = late  # type: ignore[assignment]


def test_of_two_runs_that_start_at_once_in_one_directory_one_is_left_alone(commands: Commands) -> None:
    ended = commands.run(*SMALL, "hydra.run.dir=shared", sabotage=lock_first)
    assert_one_message(ended)
    assert "another process is writing to it" in ended.err
    assert (commands.folder / "shared" / "config.yaml").read_text() == "another's"


def test_what_a_resumed_run_may_not_be_told(
    commands: Commands, copy_of_run: Callable[[str], Path], finished_run: Path
) -> None:
    run = copy_of_run("run")
    refused = {
        "algo=dqn": "algo=dqn: cannot change in a resumed run (only total_env_steps",
        "model/head=gaussian": "model/head=gaussian: cannot change in a resumed run",
        "experiment=cleanrl_dqn": "experiment=cleanrl_dqn: cannot change in a resumed run",
        "env=acrobot": "env=acrobot: cannot change in a resumed run",
        "optimizer.lr=1": "optimizer.lr=1: cannot change in a resumed run",
        "seed=1": "seed=1: cannot change in a resumed run",
        "trainer=ddp_cpu": "2 process(es), but the run was trained by 1; resume it with the same number",
        "trainer.threds=2": "trainer.threds=2: there is no such key",
        "total_env_steps=100": "the run is finished; to train for longer, add for example total_env_steps=2048",
        "total_env_steps=2048 callbacks.recorder.every=0": "callbacks.recorder.every=0: must be greater",
    }
    for typed, message in refused.items():
        ended = commands.run("resume=run", *typed.split())
        assert_one_message(ended)
        assert message in ended.err
    ended = commands.run("resume=run")
    assert_one_message(ended)
    assert "the run is finished" in ended.err
    assert_same(run, finished_run)
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


HOSTILE = {
    "algo._target_": ("os.system", "would build os.system"),
    "optimizer._target_": ("torch.os.system", "torch.os.system"),
    "model._target_": ("downpour.directory.subprocess.Popen", "Popen"),
    "env.id": ("os:World-v0", "would import os"),
    "callbacks.recorder._target_": ("builtins.exec", "would build builtins.exec"),
}


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_run_directory_runs_nothing(commands: Commands, copy_of_run: Callable[[str], Path], key: str) -> None:
    run = copy_of_run("run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    node = config
    *path, last = key.split(".")
    for name in path:
        node = node[name]
    node[last], message = HOSTILE[key]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    ended = commands.run("resume=run", "total_env_steps=2048")
    assert_one_message(ended)
    assert message in ended.err


def test_broken_run_directories(commands: Commands, copy_of_run: Callable[[str], Path]) -> None:
    for content, message in (
        ("a: [1", "cannot be read"),
        ("a: 1", "is not the configuration of a run"),
        ("", "is not"),
    ):
        run = copy_of_run(f"run{len(content)}")
        (run / "config.yaml").write_text(content)
        ended = commands.run(f"resume={run.name}")
        assert_one_message(ended)
        assert message in ended.err


def test_help_is_quick_and_whole() -> None:
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n"
        "sys.argv = ['train.py', '--help', 'algo=q_learning']\n"
        f"runpy.run_path({DOOR!r}, run_name='__main__')\n"
        "heavy = {'torch', 'lightning', 'gymnasium', 'numpy', 'pandas', 'matplotlib', 'wandb', 'scipy', 'sklearn'}\n"
        "print('imported:', sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "imported: []"
    assert "q_learning*" in shown and "  algo                actor_critic" in shown
    assert "  algo.gamma=0.99                                 discount" in shown
    assert "  total_env_steps=50000                           length of the run, over all" in shown  # of a group
    settings = [line for line in shown.splitlines() if re.match(r"  [\w.]+=", line)]
    assert [line for line in settings if not line[40:].strip()] == []  # each says what it does
    assert "target_network" not in shown  # another option's
    assert max(map(len, shown.splitlines())) <= 120


def test_training_imports_nothing_it_does_not_use() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import downpour.experiment, downpour.data\n"
        "print(sorted({'matplotlib', 'wandb', 'sklearn', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "[]\n"


def test_the_door_itself(commands: Commands, finished_run: Path) -> None:
    """A new interpreter, in a folder of its own, gives the same run as a fork with everything imported."""
    ended = commands.run(*SMALL, fork=False)
    assert ended.code == 0, ended.text
    (run,) = (commands.folder / "outputs" / "train").glob("*/*")
    assert run.name.endswith("-double_dqn")
    assert_same(run, finished_run)
    assert ended.out == ""
    said = ended.err.splitlines()
    assert said[0] == f"running in {run.relative_to(commands.folder)}"
    assert [line.split("  ")[0] for line in said[1:-1]] == [f"env_steps {n} of 1024" for n in (256, 512, 768, 1024)]
    assert re.fullmatch(rf"finished after [\d.]+ s: {run.relative_to(commands.folder)}", said[-1])


def on_terminal() -> None:
    """Give this process a terminal of 110 columns; what it shows goes to the file `screen`."""
    screen, own = pty.openpty()
    fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
    os.dup2(own, 2)

    def copy() -> None:
        with open("screen", "wb", buffering=0) as file:
            while data := os.read(screen, 4096):
                file.write(data)

    threading.Thread(target=copy, daemon=True).start()


def test_the_progress_bar(commands: Commands) -> None:
    run = commands.folder / "run"
    more = ("callbacks.progress.refresh_seconds=0.001", "callbacks.recorder.every=16")
    assert commands.run(*SMALL, *more, "hydra.run.dir=run", sabotage=on_terminal).code == 0
    shown = re.split(r"[\r\n]+", (commands.folder / "screen").read_text())
    bar = r" *\d+%\|.*\| [\d.]+k?/1.02k steps  (return [\d.]+  epsilon [\d.]+  loss \S+  )?\S+ steps/s  \S+ left *"
    bars = [line for line in shown if re.fullmatch(bar, line)]
    assert len(bars) > 5
    assert any("return" in line and "00:0" in line for line in bars)
    assert all(len(line) <= 110 for line in shown)
    assert sum(line.startswith("env_steps") for line in shown) == 4  # above the bar
    log = (run / "train.log").read_text()
    assert "env_steps 1024 of 1024" in log
    assert "\x1b" not in log and "steps/s" not in log


def test_what_a_run_leaves(finished_run: Path) -> None:
    names = {p.name for p in finished_run.iterdir()} - {".lock", "replay"}
    expected = {"config.yaml", "choices.yaml", "metrics.csv", "episodes.csv", "timing.csv", "summary.json"}
    assert names == expected | {"curve.png", "train.log", "checkpoints"}
    summary = json.loads((finished_run / "summary.json").read_text())
    metrics = rows(finished_run / "metrics.csv")
    evaluations = [row for row in metrics if row["eval/return_mean"]]
    assert summary["status"] == "finished"
    assert summary["eval/return_mean"] == float(evaluations[-1]["eval/return_mean"])
    assert summary["eval/episodes"] == 2
    assert summary["env_steps"] == 1024
    assert summary["gradient_steps"] == (1024 - 64) // 16 * 2
    assert summary["episodes"] == len(rows(finished_run / "episodes.csv"))
    best = max(evaluations, key=lambda row: float(row["eval/return_mean"]))
    assert summary["best/return_mean"] == float(best["eval/return_mean"])
    assert summary["best/env_steps"] == int(best["env_steps"])
    assert torch.load(finished_run / "checkpoints" / "best.ckpt", weights_only=True)["step"] == int(best["env_steps"])
    assert summary["seed"] == 0
    assert summary["processes"] == 1
    assert summary["wall_seconds"] > 0
    assert {"python", "torch", "lightning", "gymnasium"} <= summary["versions"].keys()
    assert "\x1b" not in (finished_run / "train.log").read_text()


def test_a_configuration_replays(commands: Commands, finished_run: Path) -> None:
    """config.yaml holds all that a run is made of."""
    own = yaml.safe_load((finished_run / "config.yaml").read_text())
    assert own["total_env_steps"] == 1024
    assert own["data"]["gamma"] == own["algo"]["gamma"] == 0.99  # resolved
    assert own["optimizer"]["lr"] == 5e-4
    assert yaml.safe_load((finished_run / "choices.yaml").read_text())["choices"]["algo"] == "double_dqn"


def test_a_sweep_over_algorithms_is_one_sweep(commands: Commands) -> None:
    """Its jobs lie side by side, and one table compares them."""
    ended = commands.run(*SMALL, "-m", "algo=dqn,double_dqn", "total_env_steps=256")
    assert ended.code == 0, ended.text
    (sweep,) = (commands.folder / "outputs" / "multirun").glob("*/*")
    assert {path.name for path in sweep.iterdir() if path.is_dir()} == {"0", "1"}
    table = (sweep / "table.md").read_text()
    assert "| algo=dqn " in table and "| algo=double_dqn " in table


def test_a_failing_job_does_not_stop_a_sweep(commands: Commands) -> None:
    ended = commands.run(*SMALL, "-m", "optimizer.lr=1e30,1e-3,-1", "total_env_steps=512")
    assert ended.code == 1
    (sweep,) = (commands.folder / "outputs" / "multirun").glob("*/*")
    statuses = [json.loads((sweep / f"{job}" / "summary.json").read_text()) for job in (0, 1)]
    assert [status["status"] for status in statuses] == ["failed", "finished"]
    assert "the weights have diverged" in statuses[0]["error"]
    assert "error" not in statuses[1]
    assert "error: job 0 (" in ended.err
    assert "optimizer.lr=-1: must be greater than 0" in ended.err
    assert (sweep / "2" / "failure.txt").read_text() == "optimizer.lr=-1: must be greater than 0\n"
    assert "optimizer.lr=-1: must be greater than 0" in (sweep / "table.md").read_text()
    assert "Traceback" not in ended.text


def test_ctrl_c_ends_a_sweep(commands: Commands) -> None:
    first = commands.folder / "sweep" / "0"
    running = commands.start(*SMALL, "-m", "seed=0,1", "total_env_steps=1000000", "hydra.sweep.dir=sweep")
    running.wait_until((first / "checkpoints" / "last.ckpt").exists)
    running.kill(signal.SIGINT)
    ended = running.wait()
    assert ended.code == 128 + signal.SIGINT
    assert "stopped by SIGINT; the run is saved. To resume:" in ended.err
    assert "resume=sweep/0" in ended.err
    assert json.loads((first / "summary.json").read_text())["status"] == "stopped"
    assert not (commands.folder / "sweep" / "1").exists()
    assert "To go on with this sweep:\n  python src/train.py -m resume_sweep=sweep\n" in ended.out
