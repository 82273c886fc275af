"""Held-out measurements by hand: what a policy prefers, over questions; and what it writes."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from direct_alignment import evaluation, log_ratios
from direct_alignment.data import Example
from direct_alignment.evaluation import as_sample, evaluate_pairs, evaluate_samples, sample_completions
from direct_alignment.log_ratios import mismatched
from direct_alignment.losses import losses
from direct_alignment.reference import Reference
from rlhf.groups import Group
from rlhf.logprobs import Scorer
from rlhf.models.policy import load_tokenizer
from rlhf.random_keys import of_samples
from rlhf.sampling import SampledCompletions
from rlhf.statistics import t_interval, wilson

MODEL = PreTrainedModel.__new__(PreTrainedModel)  # never asked
LAYOUT = {"token_budget": 100, "shared_prefix": True}


def example(question: str, *lengths: int, ref, desirable=(True, False), number: int = 0) -> Example:
    """Completions of so many tokens that count, behind one that does not."""
    completions = [[number, *[5] * n] for n in lengths]
    counts = [[False, *[True] * n] for n in lengths]
    return Example(Group([1], completions, counts), desirable, logp_ref=tuple(ref), question=question)


@pytest.fixture
def says(monkeypatch):
    """The policy's log-probabilities of completions, by example."""

    def say(logp) -> None:
        def scored(_scorer, groups, _accelerator, _layout, **_at):
            return [logp[group.completions[0][0]] for group in groups]

        monkeypatch.setattr(evaluation, "score_all", scored)
        monkeypatch.setattr(log_ratios, "score_all", scored)

    return say


def evaluated(examples, name: str, settings) -> dict:
    records = evaluate_pairs(MODEL, examples, losses[name], settings, Accelerator(cpu=True), LAYOUT)
    found = {(r["data"], r["metric"]): r for r in records}
    assert len(found) == len(records)
    return found


# Question q has three pairs, p one: log-ratios (+2, -1), (0, 0), (-3, -1) and (+1, +4).
PAIRS = [
    example("q", 2, 4, ref=(-8.0, -6.0), number=0),
    example("q", 1, 1, ref=(-5.0, -5.0), number=1),
    example("p", 3, 2, ref=(-9.0, -9.0), number=2),
    example("q", 2, 2, ref=(-4.0, -2.0), number=3),
]
LOGP = [(-6.0, -7.0), (-5.0, -5.0), (-8.0, -5.0), (-7.0, -3.0)]
QUESTION = [0, 0, 1, 0]


def test_pairs_of_one_question_are_one_unit(says):
    """Margins 0.1 * (3, 0, -3, -2): right, tied, wrong, wrong; intervals over two questions."""
    says(LOGP)
    found = evaluated(PAIRS, "dpo", {"beta": 0.1})
    expected = wilson([1.0, 0.5, 0.0, 0.0], QUESTION)
    accuracy = found["held-out pairs", "reward_accuracy"]
    assert (accuracy["value"], accuracy["low"], accuracy["high"], accuracy["n"]) == expected
    many = evaluated(PAIRS * 10, "dpo", {"beta": 0.1})["held-out pairs", "reward_accuracy"]
    assert many["low"] < wilson([1.0, 0.5, 0.0, 0.0] * 10).low - 0.05
    margin, expected = found["held-out pairs", "margin"], t_interval([0.3, 0.0, -0.3, -0.2], QUESTION)
    assert margin["value"] == pytest.approx(-0.05)
    assert (margin["low"], margin["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    for side, i in (("chosen", 0), ("rejected", 1)):
        expected = t_interval([own[i] for own in LOGP], QUESTION)
        record = found[side, "logp"]
        assert (record["value"], record["low"], record["high"], record["n"]) == pytest.approx(expected)


def test_the_held_out_loss_is_the_mean_over_pairs(says):
    says(LOGP)
    found = evaluated(PAIRS, "dpo", {"beta": 0.1})["held-out pairs", "loss"]
    expected = torch.nn.functional.softplus(-torch.tensor([0.3, 0.0, -0.3, -0.2])).mean()
    assert found == {"data": "held-out pairs", "metric": "loss", "value": pytest.approx(float(expected)), "n": 4}


def test_token_means_are_over_tokens_that_count(says):
    """SimPO ranks by logp / length: -3 and -1.75; -5 and -5; -8/3 and -2.5; -3.5 and -1.5."""
    says(LOGP)
    found = evaluated(PAIRS, "simpo", {"beta": 2.0, "gamma_beta_ratio": 0.5})
    assert found["held-out pairs", "reward_accuracy"]["value"] == 0.125
    margin = 2 * ((-3 + 1.75) + 0 + (-8 / 3 + 2.5) + (-3.5 + 1.5)) / 4
    assert found["held-out pairs", "margin"]["value"] == pytest.approx(margin)


def test_one_question_has_no_interval(says):
    says(LOGP)
    found = evaluated([PAIRS[0], PAIRS[1]], "dpo", {"beta": 0.1})
    assert "low" not in found["held-out pairs", "margin"]
    assert found["held-out pairs", "reward_accuracy"]["low"] < 0.4


# Completions with labels; log-ratios 1, 3, 5 wanted and 0, 3, 2 unwanted; questions 0, 0, 1, 1, 2, 3.
LABELLED = [
    example(q, 2, ref=(-10.0,), desirable=(label,), number=i)
    for i, (q, label) in enumerate([("a", True), ("a", True), ("b", True), ("b", False), ("c", False), ("d", False)])
]
RATIOS = [1.0, 3.0, 5.0, 0.0, 3.0, 2.0]


@pytest.mark.parametrize(
    ("name", "settings", "reference_point", "right"),
    [
        # z = 2.5: wanted 3 and 5 are above it, unwanted 0 and 2 below
        ("kto", {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}, 2.5, [0, 1, 1, 1, 0, 1]),
        # z = 2: the unwanted completion at 2 is a tie
        ("kto", {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}, 2.0, [0, 1, 1, 1, 0, 0.5]),
        # z is at least 0
        ("kto", {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}, -4.0, [1, 1, 1, 0.5, 0, 0]),
        # delta = (mean 3 of the wanted + mean 5/3 of the others) / 2 = 7/3
        ("bco", {"beta": 0.01}, None, [0, 1, 1, 1, 0, 1]),
    ],
)
def test_completions_are_judged_by_the_losses_own_threshold(says, monkeypatch, name, settings, reference_point, right):
    says([(-10.0 + s,) for s in RATIOS])
    if reference_point is not None:
        monkeypatch.setattr(
            evaluation, "mismatched", lambda *_: torch.tensor([reference_point - 1, reference_point + 1])
        )
    found = evaluated(LABELLED, name, settings)
    record, expected = found["held-out completions", "reward_accuracy"], wilson(right, [0, 0, 1, 1, 2, 3])
    assert (record["value"], record["low"], record["high"], record["n"]) == expected
    assert ("held-out completions", "margin") not in found
    assert found["chosen", "logp"]["n"] == found["rejected", "logp"]["n"] == 3
    expected = t_interval([-9.0, -7.0, -5.0], [0, 0, 1])
    assert found["chosen", "logp"]["low"] == pytest.approx(expected.low)


def test_ktos_threshold_is_that_of_the_held_out_examples(says):
    """Each example has a mismatched group, number 100 behind its own: log-ratios 3, 1, 2, 2, 4, 0, of mean 2. At that
    threshold the wanted 3 and 5 are right and 1 is wrong; the unwanted 0 is right, 3 is wrong and 2 is a tie."""
    ratios = [3.0, 1.0, 2.0, 2.0, 4.0, 0.0]
    made = [
        replace(one, mismatched=example("x", 3, ref=(0.0,), number=100 + i).group, logp_ref_mismatched=(-20.0,))
        for i, one in enumerate(LABELLED)
    ]
    says(dict(enumerate((-10.0 + s,) for s in RATIOS)) | {100 + i: (-20.0 + s,) for i, s in enumerate(ratios)})
    settings = {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}
    found = evaluated(made, "kto", settings)["held-out completions", "reward_accuracy"]
    assert found["value"] == pytest.approx((0 + 1 + 1 + 1 + 0 + 0.5) / 6)


def test_pairs_are_judged_against_each_other_whatever_the_threshold(says, monkeypatch):
    says(LOGP)
    monkeypatch.setattr(evaluation, "mismatched", lambda *_: torch.tensor([100.0]))
    settings = {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}
    assert evaluated(PAIRS, "kto", settings)["held-out pairs", "reward_accuracy"]["value"] == 0.375
    assert evaluated(PAIRS, "kto", settings)["held-out pairs", "loss"]["value"] < 1.01  # over completions, not pairs


def test_a_class_that_is_not_there_is_left_out(says, monkeypatch):
    says([(-10.0 + s,) for s in RATIOS])
    found = evaluated(LABELLED[:3], "bco", {"beta": 0.01})
    assert ("chosen", "logp") in found
    assert ("rejected", "logp") not in found


def test_log_ratios_of_mismatched_completions(monkeypatch):
    """The policy's less the reference's, of the examples that have one."""
    made = [
        Example(Group([1], [[i]]), (True,), mismatched=Group([1], [[i]]), logp_ref_mismatched=(-1.0 * i,))
        for i in (1, 2)
    ]
    made.insert(1, Example(Group([1], [[3]]), (True,)))

    def scored(_scorer, groups, _accelerator, _layout):
        return [(-10.0 * group.completions[0][0],) for group in groups]

    monkeypatch.setattr(log_ratios, "score_all", scored)
    assert mismatched(Scorer(MODEL), made, Accelerator(cpu=True), LAYOUT).tolist() == [-9.0, -18.0]


# ---------------------------------------------------------------------------------------------------------- samples

WRITTEN = [
    SampledCompletions([[5, 6]], [[-1.0, -2.0]], [False]),
    SampledCompletions([[7]], [[-0.5]], [False]),
    SampledCompletions([[8, 9, 9]], [[-1.0, -1.0, -1.0]], [True]),
]


def test_length_and_kl_of_samples_by_hand():
    """Lengths 2, 1, 3; log-ratios -3 - (-4) = 1, -0.5 - (-0.5) = 0, -3 - (-5) = 2."""
    asked = []

    def initial_logp(groups):
        asked.extend((g.prompt, g.completions) for g in groups)
        return [(-4.0,), (-0.5,), (-5.0,)]

    prompts = [[1], [2], [3]]
    reference = Reference.__new__(Reference)
    reference.initial_logp = initial_logp
    length, kl = evaluate_samples(prompts, WRITTEN, reference)
    assert asked == [([1], [[5, 6]]), ([2], [[7]]), ([3], [[8, 9, 9]])]
    for record, metric, values in ((length, "length", [2, 1, 3]), (kl, "kl", [1, 0, 2])):
        expected = t_interval(values)
        assert (record["data"], record["metric"], record["n"]) == ("samples", metric, 3)
        assert (record["value"], record["low"], record["high"]) == pytest.approx(expected[:3])
    assert evaluate_samples(prompts, WRITTEN, None) == [length]


def test_one_sample_has_no_interval():
    (record,) = evaluate_samples([[1]], WRITTEN[:1], None)
    assert record == {"data": "samples", "metric": "length", "value": 2.0, "n": 1}


def test_samples_are_of_the_policy_itself_and_the_same_in_every_run(monkeypatch):
    """One completion a prompt, at temperature 1, from random numbers of evaluation that no two prompts share."""
    asked = {}

    def sample(_model, prompts, **options):
        asked.update(options, prompts=prompts)
        return WRITTEN

    monkeypatch.setattr(evaluation, "sample", sample)
    found = sample_completions(
        MODEL, load_tokenizer("embedded"), [[1], [2], [3]], Accelerator(cpu=True), max_new_tokens=7
    )
    assert found == WRITTEN
    assert asked["prompts"] == [[1], [2], [3]]
    assert (asked["completions"], asked["max_new_tokens"], asked.get("temperature", 1.0)) == (1, 7, 1.0)
    assert asked["keys"] == [of_samples(i) for i in range(3)]


def test_a_sample_is_shown_with_its_log_probability():
    tokenizer = load_tokenizer("embedded")
    tokens = tokenizer("12", add_special_tokens=False)["input_ids"]
    shown = as_sample(tokenizer, tokens, SampledCompletions([tokens], [[-1.0, -2.5]], [False]))
    assert (shown["prompt"], shown["completion"]) == ("12", "12")
    assert shown["total"] == shown["reward"]["logp"] == -3.5
