"""Every kind of trainer, killed, asked to stop, and resumed, ends bit-identical to one that was never interrupted.

CPU, fp32. Kills at random moments, ten of each: `python -m benchmarks.kill_and_resume --kills 10`.
"""

import os
import shutil
import signal
from pathlib import Path

import pytest
import shape_checks

from benchmarks.kill_and_resume import SHORT, TRAINERS, contents, start, stop, wait, warm_up
from rlhf.run.tracking import read_records

# Fewer steps, and shorter completions of easier problems: some are right, and sampling is most of a run.
WORDS = ["--task_config", "{min_word_len: 3, max_word_len: 4}", "--max_new_tokens", "32", "--eval_problems", "2"]
SUMS = ["--task_config", "{min_terms: 2, max_terms: 2}", "--max_new_tokens", "40", "--eval_problems", "2"]
PAIRS = ["--eval_samples", "2", "--data.problems", "20", "--data.candidates", "6", "--data.held_out", "4"]
SHORTER = {
    "policy_gradients.train": WORDS,
    "rejection_sampling.train": WORDS,
    "distillation.train": WORDS,
    "direct_alignment.train": [*SUMS, *PAIRS],
}
STEPS = 4
REALLY_KILLED = "SFT"  # of the others, the directory is copied while the process stands still, and copies are resumed


def at_step(run: Path, step: int) -> bool:
    return len(read_records(run / "metrics.jsonl")) >= step


@pytest.fixture(scope="module", autouse=True)
def _candidates_are_sampled_once(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch, shape_checks.switched_off():
        patch.setenv("RLHF_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("rlhf.statistics.RESAMPLES", 30)
        warm_up()
        yield


@pytest.mark.long
@pytest.mark.parametrize("name", TRAINERS)
def test_killed_stopped_and_resumed(name: str, tmp_path: Path) -> None:
    """SIGKILL after a checkpoint; SIGTERM later: the step is finished, a checkpoint is written though none was due, the
    exit code says so, and --resume goes on from it. Weights and logs are those of a run in one go."""
    module, arguments = TRAINERS[name]
    arguments = [*SHORT, *arguments, *SHORTER.get(module, []), "--max_steps", str(STEPS)]
    whole, run, log = tmp_path / "whole", tmp_path / "run", tmp_path / "log"

    def begin(folder: Path, *more: str) -> int:
        return start(module, [*arguments, "--output_dir", str(folder), *more], log)

    def said() -> str:
        return log.read_text()

    process = begin(whole)
    assert wait(process, lambda: at_step(whole, 2)) is None, said()
    os.kill(process, signal.SIGSTOP)
    shutil.copytree(whole, run)
    os.kill(process, signal.SIGCONT)
    assert wait(process) == 0, said()

    if name == REALLY_KILLED:
        shutil.rmtree(run)
        process = begin(run)
        assert wait(process, lambda: at_step(run, 2)) is None, said()
        stop(process, signal.SIGKILL)

    process = begin(run, "--resume", "--save_every", "100")
    assert wait(process, lambda: at_step(run, 3)) is None, said()
    assert stop(process, signal.SIGTERM) == 128 + signal.SIGTERM, said()
    assert "--resume continues" in said()
    newest = max(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").iterdir())
    assert newest >= 3

    assert wait(begin(run, "--resume")) == 0, said()
    assert f"resumed at step {newest}" in said()
    found, wanted = contents(run), contents(whole)
    for part in wanted:
        assert found[part] == wanted[part], part
