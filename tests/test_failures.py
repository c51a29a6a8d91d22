"""What ended a run, and what of it a person is told."""

import json
from pathlib import Path

import pytest
import torch.distributed as dist

from downpour.failures import Failed, explain
from downpour.launch import first, report

# As Torch says them, with the other end of a connection gone.
LOST = [
    RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711"),
    RuntimeError("[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 60000ms for recv"),
    RuntimeError("writev: Broken pipe"),
    dist.DistNetworkError("failed to recv, got 0 bytes"),
    dist.DistBackendError("NCCL error: unhandled cuda error"),
]
OWN = [
    RuntimeError("the key store has no entry 3"),
    RuntimeError("restore_rng_state: a ByteTensor is expected"),
    RuntimeError("peer review of the websocket is due"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
]


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_lost_peer_is_told_with_what_was_seen(
    error: RuntimeError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    failed = explain(error, tmp_path)
    assert failed.lost and failed.code == 1
    assert str(failed) == f"lost another process of this run ({error})\nthere is no checkpoint yet"
    assert str(error) in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize("error", OWN, ids=str)
def test_other_errors_are_a_ranks_own(error: RuntimeError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    failed = explain(error, tmp_path)
    assert not failed.lost
    assert str(failed).startswith(f"RuntimeError: {error}\nthe traceback is in ")


def test_alone_there_is_no_peer_to_lose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert not explain(LOST[0], tmp_path).lost


def test_the_first_cause_is_told(tmp_path: Path) -> None:
    lost = Failed(1, "lost another process of this run (Connection closed)", lost=True)
    report(tmp_path, 0, lost)
    assert str(first(tmp_path, {0: 1}, tmp_path, nodes=1)) == str(lost)  # there is no other node to look at
    assert str(first(tmp_path, {0: 1}, tmp_path, nodes=2)).startswith("another node of this run has failed")
    assert str(first(tmp_path, {0: 1, 1: -9}, tmp_path)).startswith("rank 1 was ended by SIGKILL")
    report(tmp_path, 1, Failed(1, "ArithmeticError: 1 / 0"))
    assert str(first(tmp_path, {0: 1, 1: 1}, tmp_path, nodes=2)) == "ArithmeticError: 1 / 0"
    assert json.loads((tmp_path / "0.json").read_text())["lost"]


def test_a_time_limit_is_told_with_what_to_raise(tmp_path: Path) -> None:
    class UncompletedJobError(RuntimeError):
        """As submitit's."""

    told = explain(UncompletedJobError("Job not requeued because: timed-out too many times."), tmp_path)
    assert str(told).startswith("the job reached its time limit: raise hydra.launcher.timeout_min")
    assert not (tmp_path / "train.log").exists()
