"""Preference pairs whose label is a judge's verdict: AI feedback.

Bai et al., "Constitutional AI: Harmlessness from AI Feedback", 2022, arXiv 2212.08073; Lee et al., "RLAIF vs. RLHF",
2023, arXiv 2309.00267, who average both orders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from rlhf.candidates import Candidates
from rlhf.data.answers import Answer
from rlhf.data.preferences import Ranking
from rlhf.judges.judge import Judge, Pair, compare
from rlhf.statistics import Estimate, in_brackets, record, wilson
from rlhf.tasks.problem import messages_for


@dataclass(frozen=True)
class Labelled:
    """Pairs with the verdicts of a judge."""

    rankings: list[Ranking]  # the answer that the judge prefers first
    undecided: int  # pairs that were left out: no verdict, or a tie
    agreement: Estimate | None  # with the verifier, on the pairs of a right and a wrong answer; over problems

    def lines(self) -> list[str]:
        """What came of it, in sentences."""
        told = [f"judge: {self.undecided} pairs left out, since no answer was preferred"] if self.undecided else []
        if self.agreement is not None:
            known = record(self.agreement, data="", metric="agreement")
            told.append(
                f"judge: agrees with the verifier in {known['value']:.3f}{in_brackets(known)} of the {known['n']} "
                "pairs of a right and a wrong answer"
            )
        return told


def label_pairs(
    candidates: Sequence[Candidates],
    judge: Judge,
    *,
    seed: int,
    per_problem: int,
    swap: bool,
    system_prompt: str | None,
) -> Labelled:
    """At most `per_problem` pairs of different answers to each problem, drawn by `seed` and the question alone, the one
    that the judge prefers first; without regard to which is right, since whoever asks a judge does not know.

    Args:
        swap: take the mean of both orders; otherwise the order of the draw alone.
    """
    drawn = [(one, *pair) for one in candidates for pair in _drawn(one, seed=seed, count=per_problem)]
    pairs = [Pair(messages_for(one.problem, system_prompt), first, second) for one, first, second in drawn]
    verdicts = [it.mean for it in compare(judge, pairs)] if swap else judge.prefer_first(pairs)
    rankings: list[Ranking] = []
    agrees: list[float] = []
    problems: list[str] = []
    for (one, first, second), verdict in zip(drawn, verdicts, strict=True):
        if verdict is None or verdict == 0.5:
            continue
        better, worse = (first, second) if verdict > 0.5 else (second, first)
        rankings.append(Ranking.of_answers(messages_for(one.problem, None), [better, worse]))
        right = {answer: verdict.exact for answer, verdict in one.judged}
        if right.get(better) != right.get(worse):
            agrees.append(float(right[better] > right[worse]))
            problems.append(one.problem.question)
    agreement = wilson(agrees, problems) if agrees else None
    return Labelled(rankings, len(drawn) - len(rankings), agreement)


def _drawn(one: Candidates, *, seed: int, count: int) -> list[tuple[Answer, Answer]]:
    """Pairs of answers that say something and differ in it, each in an order by chance."""
    answers = list({answer.text.strip(): answer for answer in one.answers if answer.text.strip()}.values())
    pairs = list(combinations(answers, 2))
    rng = Random(f"{seed} {one.problem.question}")
    chosen = rng.sample(pairs, min(count, len(pairs)))
    return [(a, b) if rng.random() < 0.5 else (b, a) for a, b in chosen]
