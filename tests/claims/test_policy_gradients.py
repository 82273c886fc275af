"""What the claims about policy gradients measure, and the noise that one of them puts into its reward."""

import json
from pathlib import Path

import numpy as np
import pytest

from claims.policy_gradients import rare_success
from claims.policy_gradients.dynamic_sampling import PROMPTS, STEPS, at_equal_samples
from claims.policy_gradients.noise import noise


def test_noise_is_standard_normal_and_the_texts_decide_it() -> None:
    values = np.array([noise("prompt", f"completion {i}", "") for i in range(4000)])
    assert abs(values.mean()) < 0.05
    assert values.std() == pytest.approx(1, abs=0.03)
    assert noise("prompt", "completion 1", "right") == values[1] != noise("another", "completion 1", "right")


def test_accuracy_at_equal_samples_lies_between_two_evaluations(tmp_path: Path) -> None:
    """Of 16 prompts a step the budget of 80 is drawn after 5 steps: half-way from 0.5 at step 4 to 0.9 at step 6."""
    assert STEPS * PROMPTS == 80
    steps = [{"step": step, "wall_s": step, "groups/drawn": 16.0} for step in range(1, 9)]
    held = [(0, 0.1), (4, 0.5), (6, 0.9), (8, 1.0)]
    found = [{"step": step, "data": "words", "metric": "accuracy", "value": value, "n": 9} for step, value in held]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in steps))
    (tmp_path / "eval.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in found))
    (tmp_path / "config.yaml").write_text("algorithm: grpo\n")
    assert at_equal_samples(tmp_path) == pytest.approx(0.7)


def test_the_attempts_of_a_run_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def evaluate(run: Path) -> dict[str, float]:
        asked.append(run)
        return {"pass@1": 0.25, "pass@32": 0.5}

    monkeypatch.setattr(rare_success, "_evaluate", evaluate)
    values = [measure.of_run(tmp_path) for measure in (rare_success.pass_at(1), rare_success.pass_at(32))]
    assert values == [0.25, 0.5]
    assert asked == [tmp_path]
