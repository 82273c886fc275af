"""What claims about direct alignment measure, of runs that are a few lines of JSON."""

import json
from pathlib import Path

import pytest

from claims.direct_alignment import bounded_margin, displacement, label_noise
from claims.direct_alignment.setting import change


def write(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_change_is_after_less_before(tmp_path: Path) -> None:
    values = {"chosen": (-2.0, -1.0, -5.0), "rejected": (-4.0, -6.0, -14.0)}
    rows = [
        {"step": 10 * i, "data": side, "metric": "logp", "value": value}
        for side, of_steps in values.items()
        for i, value in enumerate(of_steps)
    ]
    write(tmp_path / "eval.jsonl", rows)
    assert change("logp", "chosen")(tmp_path) == -3
    assert displacement.margin(tmp_path) == 7


def test_growth_is_that_of_the_second_half_in_nats(tmp_path: Path) -> None:
    """The logged margin is beta times the log-ratio's: 0.5 n at step n is a growth of one nat a step with beta 0.5."""
    (tmp_path / "config.yaml").write_text("beta: 0.5\n")
    write(
        tmp_path / "metrics.jsonl",
        [{"step": n, "wall_s": n, "reward/margin": 0.5 * n} for n in range(1, bounded_margin.STEPS + 1)],
    )
    assert bounded_margin.growth(tmp_path) == pytest.approx(bounded_margin.STEPS / 2)


def test_losses_are_told_the_noise_that_there_is() -> None:
    claim = label_noise.CLAIM
    for arm in claim.arms.values():
        assert arm.settings is not None
        file = claim.before[arm.settings["data"]["path"].name]
        noise = file.settings["label_noise"]
        assert arm.x == 100 * noise
        assert arm.settings.get("label_smoothing", noise) == noise
