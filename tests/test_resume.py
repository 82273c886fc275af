"""A killed run, resumed, ends bit-identical to one that was never interrupted (CPU, fp32)."""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import SMALL

from rlhf.run.tracking import read_records

STEPS = 6


# Between them, everything that a run carries from step to step besides weights and moments.
KINDS = {
    "running baseline": ["--algorithm", "reinforce"],
    "critic": ["--algorithm", "ppo", "--epochs_per_batch", "2", "--critic.warmup_batches", "1"],
    "resampled, stale, moving reference, adaptive KL": [
        *(
            "--algorithm",
            "dapo",
            "--resample_rounds",
            "1",
            "--staleness",
            "1",
            "--kl_coef",
            "0.1",
            "--kl_target",
            "0.01",
        ),
        *("--sync_reference_every", "2", "--sync_reference_mix", "0.5"),
    ],
}


def start(run: Path, *arguments: str, kind: str = "running baseline") -> subprocess.Popen:
    command = [
        *(sys.executable, "-m", "policy_gradients.train", *SMALL, "--max_steps", str(STEPS), "--eval_every", "2"),
        *(*KINDS[kind], "--output_dir", str(run), *arguments),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def weights(run: Path) -> str:
    return hashlib.sha256((run / "final" / "model.safetensors").read_bytes()).hexdigest()


def records(run: Path) -> list[dict]:
    """Everything logged but what depends on the clock."""
    clock = ("wall_s", "speed/", "time/", "memory/")
    return [
        {key: value for key, value in record.items() if not key.startswith(clock)}
        for stream in ("metrics", "eval", "samples", "advice")
        for record in read_records(run / f"{stream}.jsonl")
    ]


def wait_for_step(run: Path, step: int) -> None:
    for _ in range(3600):  # three minutes: the machine may be busy
        if len(read_records(run / "metrics.jsonl")) >= step:
            return
        time.sleep(0.05)
    raise TimeoutError


@pytest.fixture(scope="module", params=KINDS)
def uninterrupted(request, tmp_path_factory) -> tuple[str, Path]:
    run = tmp_path_factory.mktemp("whole") / "run"
    finish(start(run, kind=request.param))
    return request.param, run


def test_killed_and_resumed(uninterrupted, tmp_path):
    kind, whole = uninterrupted
    run = tmp_path / "run"
    process = start(run, kind=kind)
    for step in (1, 4):
        wait_for_step(run, step)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start(run, "--resume", kind=kind)
    finish(process)
    assert weights(run) == weights(whole)
    assert records(run) == records(whole)


def test_asked_to_stop(uninterrupted, tmp_path):
    """SIGTERM: the step is finished, a checkpoint is written, the exit code says so, and --resume goes on from it."""
    kind, whole = uninterrupted
    run = tmp_path / "run"
    process = start(run, "--save_every", "100", kind=kind)
    wait_for_step(run, 2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "--resume continues" in output
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert f"resumed at step {checkpoint.name.removeprefix('step_')}" in finish(start(run, "--resume", kind=kind))
    assert weights(run) == weights(whole)
