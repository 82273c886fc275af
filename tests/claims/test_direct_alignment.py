"""What claims about direct alignment measure, of runs that are a few lines of JSON."""

import json
from pathlib import Path

from claims.direct_alignment import displacement, label_noise
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


def test_losses_are_told_the_noise_that_there_is() -> None:
    claim = label_noise.CLAIM
    for arm in claim.arms.values():
        assert arm.settings is not None
        file = claim.before[arm.settings["data"]["path"].name]
        noise = file.settings["label_noise"]
        assert arm.x == 100 * noise
        assert arm.settings.get("label_smoothing", noise) == noise
