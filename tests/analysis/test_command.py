"""`python src/report.py` as a person types it."""

import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread
from tests.analysis.runs_factory import write_run

from downpour.analysis.command import main

ROOT = Path(__file__).parents[2]
SETTINGS = ROOT / "conf" / "report.yaml"


def report(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "src/report.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def write_sweep(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "multirun.yaml").write_text("hydra: {}\n")
    for job, algo in enumerate(("dqn", "double_dqn")):
        write_run(path / str(job), overrides=[f"algo={algo}"], choices={"algo": algo})
    return path


def test_the_door(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "outputs/multirun/2026-11-22/10-00-00-dqn")
    before = {*tmp_path.rglob("*")}
    done = report(f"runs={sweep.relative_to(tmp_path)}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("| configuration") and done.stdout.count("| algo=") == 2
    assert {*tmp_path.rglob("*")} - before == {sweep / name for name in ("table.md", "table.csv", "curves.png")}
    assert imread(sweep / "curves.png").std() > 0.01


def test_the_door_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = report("run=outputs", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr
        == "report: run=outputs: no such setting; did you mean runs? (settings: runs, out, metric, pdf, paper)\n"
    )


def test_help_tells_every_setting(tmp_path: Path) -> None:
    done = report("--help", cwd=tmp_path)
    assert done.returncode == 0 and "python src/report.py runs=" in done.stdout
    for setting in ("runs:", "out:", "metric:", "pdf:"):
        assert any(line.startswith(setting) and "#" in line for line in done.stdout.splitlines())


def test_out_metric_and_pdf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep, out = write_sweep(tmp_path / "sweep"), tmp_path / "new/folder"
    assert main([f"runs={sweep}", f"out={out}", "metric=train/loss", "pdf=True"], SETTINGS) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "curves.pdf",
        "curves.png",
        "table.csv",
        "table.md",
    ]
    assert "train/loss" in capsys.readouterr().out


def test_a_glob_is_reported_above_what_it_names(tmp_path: Path) -> None:
    for day in ("22", "23"):
        write_sweep(tmp_path / f"outputs/2026-11-{day}/10-00-00")
    assert main([f"runs={tmp_path}/outputs/2026-11-2*/*"], SETTINGS) == 0
    assert (tmp_path / "outputs/table.md").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "runs is missing"),
        (["runs="], "runs needs a value"),
        (["outputs/x"], "write runs=outputs/x"),
        (["runs={tmp}/none"], "no such directory"),
        (["runs={tmp}/empty"], "contains no run directory"),
        (["runs={tmp}/sweep", "pdf=maybe"], "pdf=maybe: must be true or false"),
        (["runs={tmp}/sweep", "metric=eval/retrun"], "did you mean eval/return"),
        (["runs={tmp}/sweep", "out={tmp}/sweep/0/config.yaml"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    write_sweep(tmp_path / "sweep")
    (tmp_path / "empty").mkdir()
    assert main([each.format(tmp=tmp_path) for each in arguments], SETTINGS) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and said in shown.err and shown.err.count("\n") == 1


def test_importing_the_analysis_is_cheap() -> None:
    modules = [path.stem for path in (ROOT / "src/downpour/analysis").glob("[a-z]*.py")]
    code = "import sys, " + ", ".join(f"downpour.analysis.{name}" for name in modules)
    code += "; print(sorted({'matplotlib', 'pandas', 'scipy.stats', 'torch'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
