"""What the claims about direct alignment share: the task, the pairs, the size of a run, and what is read off it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from claims.claim import File, Measure
from claims.measures import held_out, held_out_series

SETTING = (
    "The embedded model on step_arithmetic (three or four terms), where it is right in a quarter of its samples. Pairs "
    "are a right and a wrong completion of its own to one problem; 60 steps of 16 pairs."
)
RUN: Mapping[str, Any] = {
    "task": "step_arithmetic",
    "max_steps": 60,
    "batch_size": 16,
    "lr": 5e-5,
    "eval_every": 0,
    "save_every": 60,
    "eval_problems": 200,
    "eval_samples": 100,
}
ACCURACY = Measure(
    "accuracy",
    "share of problems",
    "200 held-out problems after training, one sampled answer each",
    held_out("accuracy"),
)


def pairs(**settings: Any) -> File:
    """Pairs of the embedded model's completions of 1,000 problems; `settings` over those of `sample_pairs`."""
    return File("direct_alignment.sample_pairs", {"problems": 1000, "candidates": 4} | settings)


def change(metric: str, data: str) -> Callable[[Path], float]:
    """Of a held-out metric: after training less before."""
    points = held_out_series(metric, data)

    def found(path: Path) -> float:
        curve = points(path)
        return curve[-1][1] - curve[0][1]

    return found
