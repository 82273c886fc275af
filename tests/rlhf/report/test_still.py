"""Metrics that never moved: which they are, by their own scale, and the line that takes the place of their charts."""

import re
from pathlib import Path
from typing import Any

import pytest
from run_directories import write_run

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.diagnostics import describe_metrics
from rlhf.report.comparison_page import write_comparison
from rlhf.report.run_page import write_report
from rlhf.report.runs import read_run
from rlhf.report.still import stands_still, still_in_words


def a_run(folder: Path, documented: dict[str, Any] | None = None, **series: list[float | None]) -> Path:
    steps = max(map(len, series.values()))
    rows = [{"step": i + 1, **{name: own[i] for name, own in series.items()}} for i in range(steps)]
    about = {name: {"description": "D", "unit": ""} for name in series} | (documented or {})
    provenance = {"title": "T", "metrics": about, "headline": ["right"]}
    return write_run(folder, config={"algorithm": "grpo", "seed": 0}, provenance=provenance, metrics=rows)


@pytest.mark.parametrize(
    ("about", "values", "still"),
    [
        ({}, [1.0, 1.0, 1.0], True),
        ({}, [1.0, 1.0 + 1e-7, 1.0], True),  # what fp32 cannot tell apart
        ({}, [1.0, 1.001], False),
        ({}, [2e-6, 1e-6], False),  # a small learning rate that falls
        ({"noise": 1e-5}, [2e-8, -1e-8], True),  # a loss whose terms are of size 1
        ({"noise": 1e-5}, [2e-3, 1e-3], False),
        ({"noise": "much"}, [1.0, 2.0], False),
        ({"unit": "nats"}, [4e-7, 3e-7], True),
        ({"unit": "s"}, [1e-5, 3e-5], True),
        ({"unit": "s"}, [1.0, 1.5], False),
        ({}, [1.0], False),  # one step does not tell
        ({}, [None, 3.0], False),
    ],
)
def test_what_moves_is_judged_by_the_metrics_own_scale(
    tmp_path: Path, about: dict[str, Any], values: list[float | None], still: bool
) -> None:
    run = read_run(a_run(tmp_path, {"m": about}, m=values))
    assert stands_still([run], "m") is still


def test_a_metric_that_differs_between_runs_has_moved(tmp_path: Path) -> None:
    one, other = (read_run(a_run(tmp_path / name, lr=[value] * 3)) for name, value in (("a", 1e-4), ("b", 2e-4)))
    assert stands_still([one], "lr")
    assert not stands_still([one, other], "lr")


def test_one_line_takes_the_place_of_the_charts(tmp_path: Path) -> None:
    """On a run's page and on a comparison alike; the headline is drawn whatever it does."""
    documented = {
        "low": {"still": "the ratio is 1"},
        "high": {"still": "the ratio is 1"},
        "loss": {"still": "it is centred", "noise": 1e-5},
    }
    series = {"right": [0.5] * 3, "low": [1.0] * 3, "high": [1.0] * 3, "loss": [1e-8, -2e-8, 0.0], "n": [16.0] * 3}
    runs = [a_run(tmp_path / name, documented, **series, moves=[1.0, 2.0, 3.0]) for name in "ab"]
    line = "Never moved, so not drawn: low 1, high 1 (the ratio is 1); loss 0 (it is centred); n 16."
    assert still_in_words([read_run(runs[0])], ["low", "high", "loss", "n"]) == [line]
    for page in (write_report(runs[0]), write_comparison(runs, tmp_path / "comparison.html")):
        text = page.read_text()
        assert text.count(line) == 1
        drawn = re.findall(r"<figcaption><h4>([^<]*)", text)
        assert {"right", "moves"} <= {*drawn}
        assert not {"low", "high", "loss", "n"} & {*drawn}


def test_policy_gradients_say_why_a_ratio_stays_one() -> None:
    """Only where it must: not with several optimizer steps on a batch, nor with batches that have waited."""
    names = ["policy/ratio_min", "policy/ratio_max", "policy/clip_fraction", "loss"]

    def told(**settings: int) -> set[str]:
        described = describe_metrics(PolicyGradientConfig(**settings))
        return {name for name in described if "still" in described[name]}

    assert told() == {*names}
    assert "--steps_per_batch 4" in describe_metrics(PolicyGradientConfig())["policy/ratio_min"]["still"]
    for several in ({"steps_per_batch": 4}, {"epochs_per_batch": 2}, {"staleness": 1}):
        assert told(**several) == set()
