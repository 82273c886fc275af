"""What the claims about reward models share: the pairs, the size of a run, and completions of the start to judge."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from claims.claim import File

type Array = np.ndarray
TASK = {"min_terms": 3, "max_terms": 3}
PROBLEMS, COMPLETIONS = 100, 32  # held out; completions of each
JUDGED = (
    f"They judge {COMPLETIONS} completions of the embedded model to each of {PROBLEMS} held-out problems, whose true "
    "labels are known."
)
SETTING = (
    "Preference models that start from the embedded judge, which knows right steps from wrong ones: 100 steps of 32 "
    "pairs of the embedded model's completions of three-term step_arithmetic, up to four of each of 1,000 problems. "
    + JUDGED
)
RUN: Mapping[str, Any] = {
    "max_steps": 100,
    "batch_size": 32,
    "eval_every": 100,
    "save_every": 100,
}


def pairs(**settings: Any) -> File:
    """Pairs to learn from; `settings` over those of `sample_pairs`."""
    sampled = {"task_config": TASK, "problems": 1000, "per_problem": 4}
    return File("direct_alignment.sample_pairs", sampled | settings)


def learning_from(file: Any, **settings: Any) -> dict[str, Any]:
    return {"data": {"path": file, "held_out": 100, "validation": 50}} | settings


@dataclass(frozen=True)
class Judged:
    """Completions of the held-out problems: arrays (problems, completions)."""

    right: Array
    length: Array  # tokens
    score: Array

    @property
    def pairs(self) -> tuple[Array, Array, Array]:
        """Of every right completion less every wrong one of the same problem: difference of score, of length, and
        weight. The pairs of a problem weigh 1 together."""
        score, length, weight = [], [], []
        for right, its_length, its_score in zip(self.right == 1, self.length, self.score, strict=True):
            if 0 < right.sum() < len(right):
                score.append(np.subtract.outer(its_score[right], its_score[~right]).ravel())
                length.append(np.subtract.outer(its_length[right], its_length[~right]).ravel())
                weight.append(np.full(len(score[-1]), 1 / len(score[-1])))
        return np.concatenate(score), np.concatenate(length), np.concatenate(weight)

    def accuracy(self, *, shorter: bool = False) -> float:
        """Share of pairs whose right completion has the higher score. `shorter`: of those with a shorter right one."""
        score, length, weight = self.pairs
        asked = length < 0 if shorter else np.ones(len(length), dtype=bool)
        return float(np.average((np.sign(score[asked]) + 1) / 2, weights=weight[asked]))

    def best_of(self, n: int) -> float:
        """Share of right ones among those that the scores choose of n, over all subsets of n."""
        from rlhf.evaluate.best_of import best_of

        return float(np.mean([best_of(*of_problem, n) for of_problem in zip(self.score, self.right, strict=True)]))


def by(number: Callable[[Judged], float]) -> Callable[[Path], float]:
    """A number of what a run's reward model judges."""
    return lambda path: number(judged(path))


@cache
def judged(run: Path) -> Judged:
    """The held-out completions as the reward model of a run scores them, once; a process model by its product."""
    from rlhf.cache import cached, fingerprint, key
    from rlhf.candidates import sample_candidates
    from rlhf.models.reward_model import RewardModel
    from rlhf.tasks.problem import messages_for
    from rlhf.tasks.registry import open_task

    task = open_task("step_arithmetic", TASK, answer_in="think_tags")
    candidates = sample_candidates(
        "embedded", task, task.held_out_problems(PROBLEMS), count=COMPLETIONS, max_new_tokens=64, seed=0
    )
    asked = [(messages_for(one.problem, None), one.answers) for one in candidates]
    entry = key("judged", fingerprint(str(run)), [one.problem.question for one in candidates], COMPLETIONS)
    scores = cached("claims", entry, lambda: RewardModel([str(run)], steps="product", device="cpu").score(asked))
    right = [[float(verdict is not None and verdict.exact == 1) for verdict in one.verdicts] for one in candidates]
    length = [[float(len(answer.tokens)) for answer in one.answers] for one in candidates]
    return Judged(np.array(right), np.array(length), np.array(scores))
