"""Advice, by the metrics that give reason to it."""

import pytest

from distillation.config import DistillationConfig
from distillation.diagnostics import METRICS, Adviser, describe_metrics

HEALTHY = {
    "teacher/reverse_kl": 0.1,
    "teacher/forward_kl": 0.2,
    "teacher/favours_right": 0.3,
    "texts/on_policy": 1.0,
    "length/truncated": 0.0,
    "reward/exact": 0.4,
}


def advice(*steps: dict[str, float]) -> list[str]:
    adviser = Adviser()
    return [text for metrics in steps for text in adviser.check(HEALTHY | metrics)]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"teacher/says_nothing": 0.99}, "no right attempt"),
        ({"teacher/reverse_kl": 0.0, "teacher/forward_kl": 0.0}, "agree on every token"),
        ({"teacher/favours_right": -0.1}, "favours wrong completions"),
        ({"length/truncated": 0.9}, "cut at max_new_tokens"),
        ({"texts/right": 0.1}, "teacher's own texts are right"),
    ],
)
def test_advice_after_five_such_steps(metrics: dict[str, float], words: str) -> None:
    assert advice(*[metrics] * 4) == []
    (text,) = advice(*[metrics] * 5)
    assert words in text
    assert advice(*[metrics] * 4, {}, *[metrics] * 4) == [], "one healthy step within"


def test_advice_where_the_student_leaves_its_teacher() -> None:
    (text,) = advice({}, *[{"teacher/reverse_kl": 0.25}] * 5)
    assert "twice as far" in text
    assert advice({}, *[{"teacher/reverse_kl": 0.15}] * 5) == []
    assert advice({}, *[{"teacher/reverse_kl": 0.25, "texts/on_policy": 0.5}] * 5) == [], "other texts each step"


def test_healthy_runs_get_none() -> None:
    assert advice(*[{}] * 20) == []


def test_metrics_of_a_run_are_those_that_it_has() -> None:
    on_policy = describe_metrics(DistillationConfig(teacher="x"), verifies=True)
    assert METRICS.keys() - on_policy.keys() == {"texts/right", "teacher/says_nothing"}
    unverified = describe_metrics(DistillationConfig(teacher="x"), verifies=False)
    assert on_policy.keys() - unverified.keys() == {"reward/exact", "teacher/favours_right"}
    attempts = describe_metrics(DistillationConfig(teacher_sees="attempt"), verifies=True)
    assert "teacher/says_nothing" in attempts
