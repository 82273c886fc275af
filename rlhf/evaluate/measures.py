"""From attempts at problems to one number a problem for each metric, and from these to records with intervals.

A metric is a mean over problems, so its interval is over problems; and two policies that met the same problems are
compared problem by problem.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf.evaluate.best_of import best_of, pass_at_k, powers_of_two
from rlhf.evaluate.majority import majority_at
from rlhf.statistics import Array, paired, record, t_interval, wilson


@dataclass(frozen=True)
class Attempts:
    """What a policy's answers to n problems are worth: its likeliest one, and m that were sampled of each."""

    greedy: Array  # (n,) 1 if it is right, else 0; or its reward
    sampled: Array  # (n, m) likewise
    votes: (
        Sequence[Sequence[str | None]] | None
    )  # (n, m) the answers as they vote; None where nothing is right or wrong
    unverified: int = 0  # answers at which the verifier failed, which count as wrong


def per_problem(attempts: Attempts) -> dict[str, Array]:
    """Each metric's value of every problem: {metric: (n,)}.

    accuracy_greedy, avg@m, pass@k and majority@k for k = 1, 2, 4, ... m; of rewards instead reward_greedy,
    reward_avg@m, and reward_best@k: the largest of k.
    """
    sampled, m = attempts.sampled, attempts.sampled.shape[1]
    sizes = powers_of_two(m)
    if attempts.votes is None:
        best = {f"reward_best@{k}": np.array([best_of(own, own, k) for own in sampled]) for k in sizes}
        return {"reward_greedy": attempts.greedy, f"reward_avg@{m}": sampled.mean(1), **best}
    right = sampled.sum(1).astype(int)
    passed = {f"pass@{k}": np.array([pass_at_k(m, int(c), k) for c in right]) for k in sizes}
    by_vote = [majority_at(votes, own, sizes) for votes, own in zip(attempts.votes, sampled, strict=True)]
    majority = {f"majority@{k}": np.array([one[k] for one in by_vote]) for k in sizes}
    return {"accuracy_greedy": attempts.greedy, f"avg@{m}": sampled.mean(1), **passed, **majority}


def records(values: Mapping[str, Array], *, data: str) -> list[dict[str, Any]]:
    """eval.jsonl records, less their step: Wilson's interval of shares, Student's of rewards."""
    interval = t_interval if any(metric.startswith("reward") for metric in values) else wilson
    return [record(interval(own), data=data, metric=metric) for metric, own in values.items()]


def differences(after: Mapping[str, Array], before: Mapping[str, Array], *, data: str) -> list[dict[str, Any]]:
    """Of each metric that both have, the difference on the same problems with its interval, and on how many problems
    `after` is better (won), worse (lost) and equal (tied)."""
    found = []
    for metric in (name for name in after if name in before):
        a, b = after[metric], before[metric]
        won, lost = int((a > b).sum()), int((a < b).sum())
        counts = {"won": won, "lost": lost, "tied": len(a) - won - lost}
        found.append(record(paired(a, b), data=data, metric=f"{metric}_difference") | counts)
    return found
