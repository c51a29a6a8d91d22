"""`python src/eval.py` and films, on a run of some seconds."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from downpour import directory as directories
from downpour import experiment
from downpour.callbacks import Video
from downpour.config import ConfigError
from downpour.environments import Gymnasium
from downpour.evaluate import main
from downpour.run import Run
from downpour.validation import validate
from downpour.video import Camera, _picture

ROOT = Path(__file__).parents[1]
SETTINGS = ROOT / "conf/eval.yaml"


def train(directory: Path, *overrides: str) -> Path:
    """A run as the command line would leave it."""
    short = ["total_env_steps=400", "eval_every=200", "eval_episodes=2", "~callbacks.progress"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("train", overrides=[*short, *overrides])
    config = validate(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
    directories.write_config(directory, config, {"overrides": [], "choices": {}})
    experiment.fit(config, directory)
    return directory


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("eval") / "run", "env.vectorization=sync", "data.learning_starts=100")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def play(*arguments: str, out: Path) -> dict[str, Any]:
    assert main([*arguments, f"out={out}"], SETTINGS) == 0
    return json.loads((out / "eval.json").read_text())


@pytest.mark.slow
def test_the_door(run: Path) -> None:
    command = [sys.executable, str(ROOT / "src/eval.py"), "run=run", "episodes=7", "seed=5", "video=true"]
    done = subprocess.run(command, cwd=run.parent, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((run / "eval.json").read_text())
    (video,) = result["videos"]
    assert done.stdout.splitlines()[-2:] == [f"video: run/{video}", "eval: run/eval.json"]
    columns = ["", "mean", "95 % interval", "std", "min", "median", "max"]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in done.stdout.splitlines() if line[:1] == "|"]
    assert cells[0] == columns and [row[0] for row in cells[2:]] == ["return", "length"]
    assert cells[2][1] == f"{np.mean(result['returns']):.1f}"
    assert re.fullmatch(r"videos/best-seed5-return\d+\.mp4", video)
    frames = imageio.imread(run / video)
    assert frames.shape == (int(re.findall(r"\d+", video)[-2]) + 1, 400, 600, 3) and frames.std() > 1


def test_what_is_written(run: Path, tmp_path: Path) -> None:
    result = play(f"run={run}", "episodes=12", "seed=3", out=tmp_path / "out")
    assert (result["episodes"], result["seed"], result["checkpoint"], result["num_envs"]) == (12, 3, "best.ckpt", 10)
    assert result["run"] == str(run) and result["environment"] == "CartPole-v1"
    for name in ("return", "length"):
        values = np.array(result[f"{name}s"])
        d = result[name]
        assert values.shape == (12,) and d["low"] <= d["mean"] <= d["high"]
        known = [values.mean(), values.std(), values.min(), np.median(values), values.max()]
        assert [d[key] for key in ("mean", "std", "min", "median", "max")] == pytest.approx(known)
    assert not (run / "eval.json").exists()


def test_the_episodes_are_those_of_the_seed_and_the_weights(run: Path, tmp_path: Path) -> None:
    """Against a plain loop that multiplies the checkpoint's matrices itself."""
    weights = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    layers = [(weights[f"q.layers.{i}.weight"].numpy(), weights[f"q.layers.{i}.bias"].numpy()) for i in (0, 2, 4)]
    seed = int(np.random.SeedSequence([11, 6]).generate_state(1)[0])
    expected = []
    for number in range(3):
        environment = gym.make("CartPole-v1")
        observation, _ = environment.reset(seed=seed + number)
        total, over = 0.0, False
        while not over:
            x = observation.astype(np.float32)
            for place, (weight, bias) in enumerate(layers):
                x = weight @ x + bias
                x = np.maximum(x, 0) if place < 2 else x
            observation, reward, terminated, truncated, _ = environment.step(x.argmax())
            total, over = total + float(reward), terminated or truncated
        expected.append(total)
    result = play(f"run={run}", "episodes=3", "num_envs=3", "seed=11", "checkpoint=last", out=tmp_path)
    assert sorted(result["returns"]) == sorted(expected) and result["checkpoint"] == "last.ckpt"


def test_the_seed_decides(run: Path, tmp_path: Path) -> None:
    arguments = [f"run={run}", "episodes=6", "epsilon=0.5"]
    one, again, other = (play(*arguments, f"seed={seed}", out=tmp_path) for seed in (1, 1, 2))
    assert one == again and one["returns"] != other["returns"] and one["epsilon"] == 0.5
    assert play(*arguments, out=tmp_path)["seed"] == 0  # the run's own


def test_a_damaged_checkpoint_is_replaced_with_a_word(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run / "checkpoints/best.ckpt"
    best.write_bytes(best.read_bytes()[:1000])
    assert play(f"run={run}", "episodes=1", out=tmp_path)["checkpoint"] == "last.ckpt"
    assert "falling back from best.ckpt to" in capsys.readouterr().err
    best.unlink()
    assert play(f"run={run}", "episodes=1", out=tmp_path)["checkpoint"] == "last.ckpt"
    assert "there is no" in capsys.readouterr().err


def test_a_table_on_frozen_lake(tmp_path: Path) -> None:
    choices = ["algo=q_learning", "model=table", "optimizer=sgd", "env=frozen_lake"]
    lake = train(tmp_path / "lake", *choices)
    result = play(f"run={lake}", "episodes=5", "video=true", "video_episodes=2", out=tmp_path)
    assert set(result["returns"]) <= {0.0, 1.0} and result["algorithm"] == "QLearning"
    films = [re.fullmatch(r"videos/best-seed0-episode(\d)-return([01])\.mp4", each) for each in result["videos"]]
    assert [film and film[1] for film in films] == ["0", "1"]
    assert imageio.immeta(tmp_path / result["videos"][0])["fps"] == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "run is missing, for example run=outputs/train/..."),
        (["{run}"], "write run={run}"),
        (["run={run}", "episodes=0"], "episodes=0: must be greater than or equal to 1"),
        (["run={run}", "episodes=many"], "episodes=many: must be a valid integer"),
        (["run={run}", "episods=3"], "did you mean episodes?"),
        (["run={run}", "video=maybe"], "video=maybe: must be true or false"),
        (["run={run}", "checkpoint=newest"], "checkpoint=newest: must be 'best' or 'last'"),
        (["run={run}", "epsilon=1.5"], "epsilon=1.5: must be less than or equal to 1"),
        (["run={run}", "dropout=scaled"], "dropout=scaled: applies to runs on a data set; this run has an environment"),
        (["run={run}", "device=tpu9"], "device=tpu9: is not available on this machine"),
        (["run={run}", "out={run}/config.yaml"], "cannot be written"),
        (["run={tmp}"], "is not a run directory"),
        (["run={tmp}/nowhere"], "is not a run directory"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main([each.format(run=run, tmp=tmp_path) for each in arguments], SETTINGS) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and said.format(run=run) in shown.err and shown.err.count("\n") == 1


def change(run: Path, node: str, **values: Any) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config[node].update(values)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("node", "values", "said"),
    [
        ("optimizer", {"_target_": "os.system"}, "would build os.system"),
        ("env", {"id": "antigravity:Fly-v0"}, "would import antigravity"),
        ("model", {"hidden": [3, 3]}, "best.ckpt does not fit config.yaml: "),
        ("algo", {"_target_": "downpour.algorithms.dqn.DQN"}, "was written by downpour.algorithms.double_dqn"),
        ("model", {"hiden": 3}, "did you mean hidden?"),
    ],
)
def test_another_configuration_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], node: str, values: dict[str, Any], said: str
) -> None:
    change(run, node, **values)
    assert main([f"run={run}", "episodes=1"], SETTINGS) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and said in shown.err and shown.err.count("\n") == 1


def test_a_run_without_a_whole_checkpoint_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"")
    assert main([f"run={run}"], SETTINGS) == 2
    assert "no whole checkpoint (best.ckpt, last.ckpt, previous.ckpt damaged)" in capsys.readouterr().err
    shutil.rmtree(run / "checkpoints")
    assert main([f"run={run}"], SETTINGS) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err


class Blind(gym.Env):
    """Ends after three steps and cannot be drawn."""

    observation_space = gym.spaces.Box(-1, 1, (4,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None):
        self.render_mode, self.steps = render_mode, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.steps = 0
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.zeros(4, np.float32), 0.5, self.steps == 3, False, {}


class Drawn(Blind):
    """The same, in pictures of 5 x 7 grey dots."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 2}

    def render(self) -> Any:
        return np.full((5, 7, 3), 60 * self.steps, np.uint8)


@pytest.fixture
def worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym.envs.registration, "registry", dict(gym.registry))
    gym.register("Blind-v0", Blind)
    gym.register("Drawn-v0", Drawn)


def test_an_environment_that_cannot_be_drawn(run: Path, worlds: None, capsys: pytest.CaptureFixture[str]) -> None:
    change(run, "env", id="Blind-v0")
    assert main([f"run={run}", "video=true"], SETTINGS) == 2
    assert (
        capsys.readouterr().err
        == "eval: video=true: Blind-v0 cannot be recorded: it supports no render mode, not rgb_array\n"
    )


def test_a_camera_films_every_frame_and_no_reset_twice(worlds: None, tmp_path: Path) -> None:
    camera = Camera(Gymnasium(id="Drawn-v0"), tmp_path)
    camera.begin("film", 2)
    camera.reset(seed=0)
    for _ in range(6):  # three steps, the reset, two steps
        camera.step(np.array([0]))
    camera.close()
    assert [path.name for path in camera.films] == ["film-episode0-return1.5.mp4", "film-episode1-return1.mp4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in camera.films)
    frames = imageio.imread(camera.films[0])
    assert frames.shape == (4, 6, 8, 3)  # the codec wants even sides
    assert np.allclose(frames.mean((1, 2, 3)), [0, 60, 120, 180], atol=6)


def test_pictures() -> None:
    assert _picture(np.ones((2, 3, 3))).tolist() == np.full((2, 4, 3), 255).tolist()
    with pytest.raises(ValueError, match="is not an image"):
        _picture("a map in letters")


def test_filming_leaves_the_run_as_it_is(trained: Path, tmp_path: Path) -> None:
    filmed = train(
        tmp_path / "run",
        "env.vectorization=sync",
        "data.learning_starts=100",
        "callbacks=video",
        "callbacks.video.every=3",
    )
    for name in ("metrics.csv", "episodes.csv"):
        assert (filmed / name).read_text() == (trained / name).read_text()
    step = json.loads((filmed / "summary.json").read_text())["env_steps"]
    (film,) = (filmed / "videos").iterdir()  # after the last evaluation, if not after the third
    assert re.fullmatch(rf"env_steps{step}-return\d+\.mp4", film.name)


def test_training_refuses_to_film_what_cannot_be_drawn(worlds: None, tmp_path: Path) -> None:
    run = Run(tmp_path, seed=0, total_steps=1, eval_every=1, eval_episodes=1)
    with pytest.raises(ConfigError, match=r"callbacks\.video=true: Blind-v0 cannot be recorded"):
        Video(Gymnasium(id="Blind-v0"), run)
    assert math.isfinite(Camera(Gymnasium(id="Drawn-v0"), None).rate)
