"""Held-out measurements of each kind of reward model, by hand and by enumeration."""

import math
from itertools import accumulate, combinations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from reward_models.examples import Example
from reward_models.held_out_metrics import (
    Pairs,
    Solutions,
    Steps,
    by_subset,
    outcome_result,
    preference_result,
    process_result,
    step_samples,
    subset_records,
)
from rlhf import statistics
from rlhf.groups import Group
from rlhf.statistics import Estimate, bootstrap, wilson
from rlhf.text.steps import join_steps


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 60)


def by_metric(records) -> dict:
    found = {record["metric"]: record for record in records}
    assert len(found) == len(records), "each metric once"
    return found


def estimate_of(record) -> Estimate:
    return Estimate(record["value"], record.get("low"), record.get("high"), record["n"])


def scalar(values) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What a preference or outcome model says: another number before the last, which is not to be looked at."""
    return [(torch.tensor([[-9.0], [value]]), torch.tensor([value])) for value in values]


# ------------------------------------------------------------------------------------------------------ preference


def answers(question: str, *lengths: int, right=()) -> Example:
    return Example(question, Group([1], [[7] * n for n in lengths]), [""] * len(lengths), list(right))


RANKED = [answers("q", 3, 1), answers("p", 1, 4), answers("q", 2, 2), answers("r", 4, 2, 1)]
REWARDS = [2.0, 1.0, 1.0, 3.0, 0.0, 0.0, 5.0, 2.0, 4.0]
# Pairs: (2, 1) right; (1, 3) wrong; (0, 0) tied; of the ranking (5, 2) and (5, 4) right, (2, 4) wrong.
RIGHT, QUESTION = [1.0, 0.0, 0.5, 1.0, 1.0, 0.0], [0, 1, 0, 2, 2, 2]
CHOSEN, REJECTED = [2.0, 1.0, 0.0, 5.0, 5.0, 2.0], [1.0, 3.0, 0.0, 2.0, 4.0, 4.0]


def test_pairs_know_their_question_and_lengths():
    pairs = Pairs.of(RANKED)
    assert pairs.question.tolist() == QUESTION
    assert (pairs.better.tolist(), pairs.worse.tolist()) == ([0, 2, 4, 6, 6, 7], [1, 3, 5, 7, 8, 8])
    assert pairs.chosen_length.tolist() == [3, 1, 2, 4, 4, 2]
    assert pairs.rejected_length.tolist() == [1, 4, 2, 2, 1, 1]


def test_accuracy_of_pairs_is_over_questions():
    """Three questions with one, two and three pairs: the interval is that of three clusters."""
    found = by_metric(preference_result(scalar(REWARDS), RANKED, "d").records)
    assert list(found) == ["accuracy", "calibration_error", "length_correlation"]
    assert estimate_of(found["accuracy"]) == wilson(RIGHT, QUESTION)
    assert found["accuracy"]["value"] == pytest.approx(3.5 / 6)
    assert found["accuracy"] | {"data": "d"} == found["accuracy"]


def test_calibration_is_of_the_models_own_choice():
    """Differences 1, 2, 0, 3, 1, 2 are sure by sigmoid: 0.7311 (2 of 2 right), 0.8808 (0 of 2), 0.5 (a tie), 0.9526."""
    s = [1 / (1 + math.exp(-d)) for d in (0, 1, 2, 3)]
    result = preference_result(scalar(REWARDS), RANKED, "d")
    found = by_metric(result.records)["calibration_error"]
    assert found["value"] == pytest.approx((2 * (1 - s[1]) + 2 * s[2] + 0 + (1 - s[3])) / 6)
    assert [(b["predicted"], b["observed"], b["n"]) for b in result.reliability] == [
        (pytest.approx(0.5), 0.5, 1), (pytest.approx(s[1]), 1.0, 2), (pytest.approx(s[2]), 0.0, 2),
        (pytest.approx(s[3]), 1.0, 1),
    ]  # fmt: skip


def test_the_rewards_correlation_with_length():
    result = preference_result(scalar(REWARDS), RANKED, "d")
    length, question = [3, 1, 2, 4, 4, 2, 1, 4, 2, 2, 1, 1], np.array(QUESTION * 2)
    rewards = np.array(CHOSEN + REJECTED)
    found = by_metric(result.records)["length_correlation"]
    assert found["value"] == pytest.approx(spearmanr(rewards, length).statistic)
    assert found["value"] > 0
    expected = bootstrap(lambda i: spearmanr(rewards[i], np.array(length)[i]).statistic, question)
    assert (found["low"], found["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert result.histograms == {"chosen": CHOSEN, "rejected": REJECTED}


def test_the_statistic_of_pairs_is_their_accuracy():
    result = preference_result(scalar(REWARDS), RANKED, "d")
    assert [result.statistic(np.array(i)) for i in ([0, 1], [2], [0, 0, 1])] == [0.5, 0.5, pytest.approx(2 / 3)]


def test_right_answers_are_preferred_to_wrong_ones():
    """Scores 1, 3, 2 of answers that are right, wrong, right: one pair of two is lost, and so is the other."""
    verified = [answers("q", 1, 1, 1, right=[True, False, True])]
    assert by_metric(preference_result(scalar([1.0, 3.0, 2.0]), verified, "d").records)["accuracy"]["value"] == 0.0
    assert by_metric(preference_result(scalar([4.0, 3.0, 2.0]), verified, "d").records)["accuracy"]["value"] == 0.5


def test_subsets_have_their_own_accuracy_and_weigh_the_same():
    """a: 1, 0, 1/2 of questions 0, 0, 1; b: 1 of question 2: means 1/2 and 1, and 3/4 over subsets."""
    right, question = np.array([1.0, 1.0, 0.0, 0.5]), np.array([0, 2, 0, 1])
    first, second, mean = by_subset(right, question, ["a", "b", "a", "a"], data="d")
    assert (first["data"], first["metric"]) == ("d: a", "accuracy")
    assert estimate_of(first) == wilson([1.0, 0.0, 0.5], [0, 0, 1])
    assert estimate_of(second) == wilson([1.0], [2])
    assert second["data"] == "d: b"
    assert mean == {"data": "d", "metric": "accuracy_mean_of_subsets", "n": 4, "value": 0.75}


def test_subsets_from_what_a_model_says():
    examples = [answers("q", 1, 2), answers("q", 1, 2), answers("p", 1, 2)]
    records = subset_records(scalar([2.0, 1.0, 0.0, 1.0, 3.0, 3.0]), examples, ["x", "x", "y"], "d")
    assert estimate_of(records[0]) == wilson([1.0, 0.0], [0, 0])
    assert [r["value"] for r in records] == [0.5, 0.5, 0.5]


def test_a_list_is_right_where_every_chosen_answer_is_above_every_rejected_one():
    """RewardBench 2's best of four; and with two chosen. A tie counts one half."""
    four = [answers("q", 1, 2, 1, 1, right=[True, False, False, False]) for _ in range(3)]
    two = answers("p", 1, 2, 1, 1, right=[True, True, False, False])
    scores = [3.0, 2.0, 1.0, 0.0, *(2.0, 2.0, 1.0, 0.0), *(2.0, 3.0, 1.0, 0.0), *(3.0, 2.0, 1.0, 0.0)]
    records = subset_records(scalar(scores), [*four, two], ["x", "x", "x", "y"], "d")
    assert [r["value"] for r in records] == [0.5, 1.0, 0.75]
    assert records[0]["n"] == 3


# --------------------------------------------------------------------------------------------------------- outcome

SOLVED = [
    answers("q", 4, 1, 2, 3, right=[True, False, False, True]),
    answers("p", 5, 2, 6, 3, right=[False, False, True, False]),
    answers("r", 2, 3, 1, 1, right=[False, True, False, False]),
]
LOGITS = [1.0, 2.0, -1.0, 0.5, -2.0, -0.5, 0.7, 0.7, -3.0, 0.1, 0.0, -0.2]
IS_RIGHT = [True, False, False, True, False, False, True, False, False, True, False, False]
LENGTHS = [4, 1, 2, 3, 5, 2, 6, 3, 2, 3, 1, 1]
THREE = np.repeat([0, 1, 2], 4)


def test_solutions_know_their_question():
    solutions = Solutions.of(SOLVED)
    assert solutions.question.tolist() == THREE.tolist()
    assert (solutions.right.tolist(), solutions.length.tolist()) == (IS_RIGHT, LENGTHS)


def test_auc_and_accuracy_of_solutions():
    """AUC by counting all pairs of a right and a wrong one; right above a logit of 0, which itself says wrong."""
    result = outcome_result(scalar(LOGITS), SOLVED, "d")
    found = by_metric(result.records)
    right, wrong = (
        [x for x, is_right in zip(LOGITS, IS_RIGHT, strict=True) if is_right is way] for way in (True, False)
    )
    won = [(r > w) + 0.5 * (r == w) for r in right for w in wrong]
    assert found["auc"]["value"] == pytest.approx(sum(won) / len(won))
    assert result.statistic(np.arange(12)) == found["auc"]["value"]
    assert estimate_of(found["auc"])[1:3] == bootstrap(result.statistic, THREE)[1:3]
    correct = [float((x > 0) == is_right) for x, is_right in zip(LOGITS, IS_RIGHT, strict=True)]
    assert estimate_of(found["accuracy"]) == wilson(correct, THREE)
    assert result.histograms == {"right": pytest.approx(right), "wrong": pytest.approx(wrong)}


def test_calibration_of_solutions_by_bins():
    """|predicted - observed| by tenths of the probability, weighted by how many fall there."""
    p = [1 / (1 + math.exp(-x)) for x in LOGITS]
    bins: dict[int, list[int]] = {}
    for i, value in enumerate(p):
        bins.setdefault(int(value * 10), []).append(i)
    gaps = [abs(sum(p[i] - IS_RIGHT[i] for i in own)) for own in bins.values()]
    result = outcome_result(scalar(LOGITS), SOLVED, "d")
    found = by_metric(result.records)["calibration_error"]
    assert found["value"] == pytest.approx(sum(gaps) / 12)
    assert found["high"] - found["low"] > 0
    assert [b["n"] for b in result.reliability] == [len(bins[b]) for b in sorted(bins)]
    assert [b["predicted"] for b in result.reliability] == sorted(b["predicted"] for b in result.reliability)


def test_length_correlation_of_solutions():
    found = by_metric(outcome_result(scalar(LOGITS), SOLVED, "d").records)["length_correlation"]
    assert found["value"] == pytest.approx(spearmanr(LOGITS, LENGTHS).statistic)


def test_intervals_of_solutions_are_over_questions():
    """Each question's answers four times over: the same values, and the same intervals."""
    fourfold = [answers(e.question, *map(len, e.group.completions * 4), right=e.right * 4) for e in SOLVED]
    logits = [x for i in (0, 4, 8) for x in LOGITS[i : i + 4] * 4]
    once = by_metric(outcome_result(scalar(LOGITS), SOLVED, "d").records)
    more = by_metric(outcome_result(scalar(logits), fourfold, "d").records)
    for metric in ("auc", "calibration_error", "length_correlation"):
        for part in ("value", "low", "high"):
            assert more[metric][part] == pytest.approx(once[metric][part]), (metric, part)


def best_by(score, right, n: int) -> float:
    """Over all subsets; ties by their mean."""
    found = []
    for subset in combinations(range(len(score)), n):
        best = max(score[i] for i in subset)
        tied = [right[i] for i in subset if score[i] == best]
        found.append(sum(tied) / len(tied))
    return sum(found) / len(found)


def test_best_of_n_of_solutions_by_enumeration():
    """By the model's score, by the shortest, and at random, of each question; then the mean over questions."""
    result = outcome_result(scalar(LOGITS), SOLVED, "d")
    ways = {"model": LOGITS, "shortest": [-n for n in LENGTHS], "random": [0] * 12}
    assert set(result.best_of) == set(ways)
    for way, score in ways.items():
        assert [row["of"] for row in result.best_of[way]] == [1, 2, 4]
        for row in result.best_of[way]:
            by_question = [best_by(score[i : i + 4], IS_RIGHT[i : i + 4], row["of"]) for i in (0, 4, 8)]
            assert row["value"] == pytest.approx(np.mean(by_question))
            expected = wilson(by_question)
            assert (row["n"], row["low"], row["high"]) == (3, pytest.approx(expected.low), pytest.approx(expected.high))
    assert result.best_of["model"][2]["value"] == pytest.approx((0 + 0.5 + 1) / 3)
    assert result.best_of["shortest"][2]["value"] == 0.0


def test_what_the_table_of_solutions_has():
    """Of best-of-n the most by the model; sampling once, and the most by what no model is needed for, are baselines."""
    result = outcome_result(scalar(LOGITS), SOLVED, "d")
    assert [r["metric"] for r in result.records] == [
        "auc",
        "accuracy",
        "calibration_error",
        "length_correlation",
        "best_of_4",
    ]
    baselines = by_metric(result.baselines)
    assert list(baselines) == ["accuracy_majority", "best_of_1", "best_of_4_random", "best_of_4_shortest"]
    assert baselines["accuracy_majority"]["value"] == pytest.approx(8 / 12)
    assert baselines["best_of_1"]["value"] == pytest.approx(4 / 12)
    assert all("of" not in r for r in [*result.records, *result.baselines])


def test_the_majority_may_be_right():
    mostly = [answers("q", 1, 1, 1, right=[True, True, False]), answers("p", 1, 1, 1, right=[True, True, True])]
    found = by_metric(outcome_result(scalar([1.0, 2.0, 0.0, 1.0, 1.0, 3.0]), mostly, "d").baselines)
    assert found["accuracy_majority"]["value"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("way", [True, False])
def test_where_all_solutions_are_alike_there_is_no_auc(way: bool):
    """A number that does not exist is left out, not written as nan."""
    alike = [answers("q", 1, 2, right=[way] * 2), answers("p", 1, 2, right=[way] * 2)]
    result = outcome_result(scalar([1.0, 2.0, 3.0, 4.0]), alike, "d")
    assert "auc" not in by_metric(result.records)
    assert all(math.isfinite(r["value"]) for r in [*result.records, *result.baselines])


def test_answers_to_one_question_have_no_interval():
    result = outcome_result(scalar([1.0, 2.0]), [answers("q", 1, 2, right=[True, False])], "d")
    assert "low" not in by_metric(result.records)["auc"]


# --------------------------------------------------------------------------------------------------------- process


def trace_of(steps, labels, *, judged_at="separator"):
    """(tokens, counts, labels, ends): steps of their own tokens, each with the separator 99 behind it."""
    encoded = [[*step, 99] for step in steps]
    tokens, counts, known = join_steps(encoded, labels, judged_at=judged_at)
    return tokens, counts, known, [end - 1 for end in accumulate(map(len, encoded))]


def traces(question: str, *given, right=None, whole=None, judged_at="separator") -> Example:
    tokens, counts, labels, ends = (
        list(c) for c in zip(*(trace_of(*g, judged_at=judged_at) for g in given), strict=True)
    )
    return Example(
        question,
        Group([1], tokens, counts),
        [""] * len(given),
        list(right or [None] * len(given)),
        labels,
        [[f"step {s}" for s in steps] for steps, _ in given],
        step_ends=ends,
        whole=list(whole or [True] * len(given)),
    )


def says(*wrong: float) -> tuple[torch.Tensor, torch.Tensor]:
    """P(wrong) of each step, the rest right but for 0.01 neutral. Above 0.5 it says wrong, below right."""
    logits = torch.tensor([[w, 0.01, 0.99 - w] for w in wrong]).log()
    return logits, logits[-1]


def says_classes(*classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.tensor([[2.0 * (c == k) for k in (-1, 0, 1)] for c in classes])
    return logits, logits[-1]


# A solution with an unjudged step, and two alternatives of its third step; another solution; another question.
FOLLOWED = ([[5, 5], [6], [7, 7, 7]], [1, None, -1])
OTHERS = (([[5, 5], [6], [8]], [None, None, 0]), ([[5, 5], [6], [9, 9]], [None, None, -1]))
JUDGED = [
    traces("q", FOLLOWED, *OTHERS, ([[4]], [1]), whole=[True, False, False, True]),
    traces("p", ([[3], [2, 2]], [1, 1])),
]


@pytest.mark.parametrize("judged_at", ["separator", "step"])
def test_a_step_is_its_own_tokens_and_place(judged_at: str):
    """Not what stands before it since the last step that somebody labelled."""
    steps = Steps.of([traces("q", FOLLOWED, *OTHERS, ([[4]], [1]), judged_at=judged_at), JUDGED[1]])
    assert steps.tokens == [[5, 5, 99], [7, 7, 7, 99], [8, 99], [9, 9, 99], [4, 99], [3, 99], [2, 2, 99]]
    assert steps.length.tolist() == [3, 4, 2, 3, 2, 2, 3]
    assert steps.place.tolist() == [0, 2, 2, 2, 0, 0, 1]
    assert steps.label.tolist() == [1, -1, 0, -1, 1, 1, 1]
    assert steps.question.tolist() == [0, 0, 0, 0, 0, 1, 1]


def test_an_alternative_is_no_solution_of_its_own():
    """The followed solution's mistake is found, the short one's absence of any is not, and the other question's is:
    2 of 3; what is said of the alternatives, right or wrong, changes nothing."""
    for of_others in ((-1, -1), (1, 0)):
        found = [says_classes(1, -1), *map(says_classes, of_others), says_classes(-1), says_classes(1, 1)]
        records = by_metric(process_result(found, JUDGED, "d").records)
        assert estimate_of(records["first_error_accuracy"]) == wilson([1.0, 0.0, 1.0], [0, 0, 1])
        assert estimate_of(records["first_error_accuracy_of_wrong"]) == wilson([1.0], [0])


@pytest.mark.parametrize(
    ("labels", "said", "placed"),
    [
        ([1, -1, 1, -1], [1, -1, -1, 1], 1.0),  # what follows the first mistake does not matter
        ([1, -1, 1, -1], [-1, -1, 1, -1], 0.0),  # too early
        ([1, -1, 1, -1], [1, 0, 1, -1], 0.0),  # too late
        ([1, 0, 1, 1], [0, 1, 0, 0], 1.0),  # none, and none is found
        ([1, 0, 1, 1], [1, 1, 1, -1], 0.0),
        ([1, 1, 1, -1], [1, 1, 1, 1], 0.0),
    ],
)
def test_the_first_mistake_is_found_or_not(labels, said, placed: float):
    example = traces("q", ([[5]] * 4, labels))
    records = by_metric(process_result([says_classes(*said)], [example], "d").records)
    assert records["first_error_accuracy"]["value"] == placed
    assert ("first_error_accuracy_of_wrong" in records) == (-1 in labels)
    if -1 in labels:
        assert records["first_error_accuracy_of_wrong"]["value"] == placed


def test_alternatives_alone_have_no_first_mistake():
    example = traces("q", OTHERS[0], OTHERS[1], whole=[False, False])
    records = by_metric(process_result([says_classes(0), says_classes(-1)], [example], "d").records)
    assert list(records) == ["macro_f1", "f1_wrong", "f1_neutral"]


def test_f1_of_steps_by_hand():
    """Labels 1 -1 0 -1 1 1 1, said 1 -1 0 1 -1 1 1: wrong 1 hit, 1 missed, 1 false: 1/2; neutral 1; right 3 of 4 with 1
    false: 6/8. Over questions 0 (five steps) and 1 (two)."""
    found = [says_classes(1, -1), says_classes(0), says_classes(1), says_classes(-1), says_classes(1, 1)]
    result = process_result(found, JUDGED, "d")
    records = by_metric(result.records)
    values = {name: records[f"f1_{name}"]["value"] for name in ("wrong", "neutral", "right")}
    assert values == {"wrong": 0.5, "neutral": 1.0, "right": 0.75}
    assert records["macro_f1"]["value"] == pytest.approx(0.75)
    assert records["macro_f1"]["n"] == 7
    assert result.statistic(np.array([5, 6])) == 1.0
    expected = bootstrap(result.statistic, np.array([0, 0, 0, 0, 0, 1, 1]))
    assert (records["macro_f1"]["low"], records["macro_f1"]["high"]) == (expected.low, expected.high)


def test_classes_without_a_label_are_left_out():
    example = traces("q", ([[5], [6]], [1, -1]))
    records = by_metric(process_result([says_classes(1, -1)], [example], "d").records)
    assert records["macro_f1"]["value"] == 1.0
    assert "f1_neutral" not in records


def test_mistakes_are_predicted_with_their_frequency():
    """P(wrong) 0.95 and 0.75 of wrong steps, 0.15 and 0.35 of others."""
    example = traces("q", ([[5], [6]], [-1, 1]), ([[5], [6]], [0, -1]))
    result = process_result([says(0.95, 0.15), says(0.35, 0.75)], [example], "d")
    assert result.histograms == {
        "wrong steps": pytest.approx([0.95, 0.75]), "other steps": pytest.approx([0.15, 0.35]),
    }  # fmt: skip
    assert [(b["predicted"], b["observed"]) for b in result.reliability] == [
        (pytest.approx(0.15), 0.0), (pytest.approx(0.35), 0.0), (pytest.approx(0.75), 1.0), (pytest.approx(0.95), 1.0),
    ]  # fmt: skip


def test_best_of_traces_by_enumeration():
    """Each way to put steps together, of P(not wrong), and the baselines, over two questions of three solutions."""
    labelled = [[1, 1], [1, 1], [1, 1]]
    steps = [[[5], [6]], [[5, 5], [6]], [[5], [6, 6, 6]]]
    examples = [
        traces(q, *zip(steps, labelled, strict=True), right=right)
        for q, right in (("q", [True, False, False]), ("p", [False, False, True]))
    ]
    wrong = [(0.3, 0.3), (0.1, 0.4), (0.2, 0.1), (0.01, 0.9), (0.5, 0.5), (0.6, 0.2)]
    result = process_result([says(*w) for w in wrong], examples, "d")
    fine = [[1 - w for w in own] for own in wrong]
    ways = {
        "min": [min(own) for own in fine],
        "product": [own[0] * own[1] for own in fine],
        "last": [own[-1] for own in fine],
        "shortest": [-4, -5, -6] * 2,
        "random": [0] * 6,
    }
    right = [True, False, False, False, False, True]
    assert set(result.best_of) == set(ways)
    for way, score in ways.items():
        assert [row["of"] for row in result.best_of[way]] == [1, 2]
        for row in result.best_of[way]:
            expected = np.mean([best_by(score[i : i + 3], right[i : i + 3], row["of"]) for i in (0, 3)])
            assert row["value"] == pytest.approx(expected), (way, row["of"])
    metrics = [r["metric"] for r in result.records]
    assert metrics[-3:] == ["best_of_2_min", "best_of_2_product", "best_of_2_last"]
    assert [r["metric"] for r in result.baselines] == ["best_of_1_min", "best_of_2_random", "best_of_2_shortest"]


def test_products_of_many_steps_are_compared_and_not_rounded_away():
    """Two solutions of 200 steps, P(not wrong) 0.015 and 0.016: products of 1e-365 and 1e-359, both 0."""
    steps = [[5]] * 200
    example = traces("q", (steps, [1] * 200), (steps, [1] * 200), right=[False, True])
    result = process_result([says(*[0.985] * 200), says(*[0.984] * 200)], [example], "d")
    assert [row["value"] for row in result.best_of["product"]] == [0.5, 1.0]


def test_solutions_that_nobody_verified_have_no_best():
    example = traces("q", ([[5]], [1]), ([[6]], [1]), right=[True, None])
    result = process_result([says(0.1), says(0.2)], [example], "d")
    assert (result.best_of, result.baselines) == ({}, [])


def test_traces_are_shown_with_mistakes_first():
    """At most twelve, of those whose steps are all labelled."""
    fine = [([[i], [i]], [1, 1]) for i in range(11)]
    example = traces("q", *fine, FOLLOWED, ([[50]], [-1]), ([[51], [52]], [0, -1]))
    found = [says(0.1, 0.2)] * 11 + [says(0.1, 0.9), says(0.7), says(0.3, 0.6)]
    shown = process_result(found, [example], "d").traces
    assert len(shown) == 12
    assert [one["labels"] for one in shown[:3]] == [[-1], [0, -1], [1, 1]]
    assert shown[0] == {"steps": ["step [50]"], "labels": [-1], "wrong": [pytest.approx(0.7)]}
    assert shown[1]["wrong"] == pytest.approx([0.3, 0.6])
    assert all(len(one["steps"]) == len(one["labels"]) for one in shown)


# ---------------------------------------------------------------------------------------------------------- samples


def test_samples_of_steps_tell_the_weakest():
    examples = [JUDGED[1], traces("r", ([[3], [2]], [1, -1]), right=[False])]
    first, second = step_samples([says(0.1, 0.4), says(0.8, 0.2)], examples, 2)
    assert first["total"] == first["reward"]["score"] == pytest.approx(0.6)
    assert first["reward"] == {"score": pytest.approx(0.6), "right steps": 2}
    assert second["reward"] == {"score": pytest.approx(0.2), "right": 0.0, "right steps": 1}
    assert (first["prompt"], second["prompt"]) == ("p", "r")


def test_samples_of_answers_are_the_first_of_each_question():
    examples = [Example("q", Group([1], [[2], [3]]), ["a", "b"], [True, False]), Example("p", Group([1], [[4]]), ["c"])]
    found = step_samples(scalar([1.0, 2.0, 3.0]), examples, 5)
    assert [(s["prompt"], s["completion"], s["total"]) for s in found] == [("q", "a", 1.0), ("p", "c", 3.0)]
    assert [s["reward"] for s in found] == [{"score": 1.0, "right": 1.0}, {"score": 3.0}]
    assert len(step_samples(scalar([1.0, 2.0, 3.0]), examples, 1)) == 1
