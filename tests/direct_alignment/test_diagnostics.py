"""What is measured along the way, by hand, and what is said of it."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from accelerate import Accelerator

from direct_alignment.diagnostics import (
    Adviser,
    StepSums,
    advice_on_evaluations,
    implicit_reward,
    judged_right,
    ranked_right,
)
from direct_alignment.loss import Completions
from direct_alignment.losses import losses


def two_pairs() -> Completions:
    """Log-ratios +3, -1 and 0, 0."""
    ref = torch.tensor([-5.0, -6.0, -7.0, -8.0])
    s = torch.tensor([3.0, -1.0, 0.0, 0.0])
    return Completions(ref + s, ref, torch.tensor([2.0, 3.0, 4.0, 5.0]), torch.tensor([True, False, True, False]))


def test_ties_count_one_half() -> None:
    it = two_pairs()
    reward = implicit_reward(losses["dpo"], it, {"beta": 0.1})
    assert reward.tolist() == pytest.approx([0.3, -0.1, 0, 0])
    assert ranked_right(reward, it.desirable, pairs=True).tolist() == [1, 0.5]
    assert ranked_right(reward, it.desirable, pairs=False).tolist() == [1, 1, 0.5, 0.5]


def test_step_sums() -> None:
    """Over two micro-batches: chosen rewards 0.3 and 0 have mean 0.15; their log-probabilities -2 and -7, mean -4.5."""
    sums, it = StepSums(losses["dpo"], {"beta": 0.1}), two_pairs()
    for rows in (slice(0, 2), slice(2, 4)):
        part = Completions(it.logp[rows], it.logp_ref[rows], it.length[rows], it.desirable[rows])
        sums.add(part, pairs=True)
    means = sums.means(Accelerator(cpu=True))
    expected = {
        "reward/accuracy": 0.75,
        "reward/chosen": 0.15,
        "logp/chosen": -4.5,
        "length/chosen": 3.0,
        "reward/rejected": -0.05,
        "logp/rejected": -7.5,
        "length/rejected": 4.0,
        "reward/margin": 0.2,
    }
    assert means == pytest.approx(expected)


def completions(s, desirable, *, s_mismatched=None) -> Completions:
    ref = -10.0 - torch.arange(len(s))
    mismatched = None if s_mismatched is None else torch.tensor(s_mismatched)
    return Completions(ref + torch.tensor(s), ref, torch.ones(len(s)), torch.tensor(desirable), mismatched)


def test_the_reward_is_in_the_scale_of_the_loss() -> None:
    """beta times the loss's score; ORPO has no beta, so its score itself."""
    it = two_pairs()
    assert implicit_reward(losses["dpo_norm"], it, {"beta": 2.0}).tolist() == pytest.approx([3.0, -2 / 3, 0.0, 0.0])
    assert implicit_reward(losses["orpo"], it, {}).tolist() == pytest.approx([-1.0, -7 / 3, -7 / 4, -8 / 5])
    it = replace(it, logp=it.logp.requires_grad_())
    assert not implicit_reward(losses["dpo"], it, {"beta": 0.1}).requires_grad


@pytest.mark.parametrize(
    ("threshold", "right"), [(0.0, [1, 1, 0, 0.5, 0]), (0.5, [1, 0.5, 0, 1, 0.5]), (-0.5, [1, 1, 0.5, 0, 0])]
)
def test_completions_alone_are_parted_by_a_threshold(threshold: float, right: list[float]) -> None:
    reward, desirable = torch.tensor([1.0, 0.5, -0.5, 0.0, 0.5]), torch.tensor([True, True, True, False, False])
    assert ranked_right(reward, desirable, pairs=False, threshold=threshold).tolist() == right


def test_pairs_need_no_threshold() -> None:
    reward, desirable = torch.tensor([3.0, 2.0, 1.0, 2.0]), torch.tensor([True, False] * 2)
    assert ranked_right(reward, desirable, pairs=True, threshold=99.0).tolist() == [1, 0]
    kto = {"beta": 0.1}
    it = completions([3.0, 2.0, 1.0, 2.0], [True, False] * 2, s_mismatched=[99.0])
    assert judged_right(losses["kto"], it, kto, pairs=True).tolist() == [1, 0]
    assert judged_right(losses["kto"], it, kto, pairs=False).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_a_threshold_is_where_the_loss_of_both_labels_is_the_same(beta: float) -> None:
    """Of a completion at the threshold, being wanted or unwanted costs the same; above it, unwanted costs more."""
    for name, mismatched in (("kto", [1.0, 4.0]), ("bco", None)):
        given = {"beta": beta} | ({"desirable_weight": 1.0, "undesirable_weight": 1.0} if name == "kto" else {})
        it = completions([1.0, 5.0, 0.0], [True, True, False], s_mismatched=mismatched)
        threshold = losses[name].threshold(it, given)
        assert threshold == pytest.approx(beta * (2.5 if name == "kto" else 1.5))
        # a fourth completion at the threshold, as often wanted as not, leaves both classes' middle where it is
        more = completions([1.0, 5.0, 0.0, threshold / beta], [True, True, False, True], s_mismatched=mismatched)
        if name == "kto":
            wanted = losses[name](more, **given)[3]
            unwanted = losses[name](replace(more, desirable=~more.desirable), **given)[3]
            assert float(wanted) == pytest.approx(float(unwanted))
    assert losses["dpo"].threshold(two_pairs(), {"beta": 0.1}) == 0.0


def test_the_threshold_of_a_step_is_that_of_all_its_micro_batches() -> None:
    """BCO: wanted 4, 2 and unwanted 3, 1 part at 2.5; apart, (4, 3) would part at 3.5 and (2, 1) at 1.5."""
    whole = completions([4.0, 3.0, 2.0, 1.0], [True, False, True, False])
    for cuts in ([0, 4], [0, 2, 4], [0, 1, 2, 3, 4]):
        sums = StepSums(losses["bco"], {"beta": 0.01})
        for a, b in pairwise(cuts):
            part = Completions(whole.logp[a:b], whole.logp_ref[a:b], whole.length[a:b], whole.desirable[a:b])
            sums.add(part, pairs=False)
        assert sums.means(Accelerator(cpu=True))["reward/accuracy"] == 0.5
        assert sums.tokens == 4


def test_a_step_of_one_class_has_no_other() -> None:
    sums = StepSums(losses["kto"], {"beta": 0.1})
    sums.add(completions([2.0, 4.0], [True, True], s_mismatched=[3.0]), pairs=False)
    means = sums.means(Accelerator(cpu=True))
    assert means["reward/accuracy"] == 0.5
    assert means["reward/chosen"] == pytest.approx(0.3)
    assert not any("rejected" in key or "margin" in key for key in means)


def test_what_is_kept_of_a_step_holds_no_graph() -> None:
    it = replace(two_pairs(), logp=two_pairs().logp.requires_grad_())
    sums = StepSums(losses["simpo"], {"beta": 2.0})
    sums.add(replace(it, logp_ref=None), pairs=True)
    assert not sums.parts[0].logp.requires_grad
    assert sums.means(Accelerator(cpu=True))["reward/accuracy"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("key", "before", "quiet", "loud"),
    [
        (("chosen", "logp"), -10.0, -15.0, -15.1),
        (("samples", "kl"), 0.0, 50.0, 50.1),
        (("samples", "length"), 20.0, 30.0, 30.1),
    ],
)
def test_where_advice_begins(key, before: float, quiet: float, loud: float) -> None:
    for after, said in ((quiet, 0), (loud, 1)):
        assert len(advice_on_evaluations({key: [{"value": before}, {"value": after}]})) == said


def test_displacement_is_said() -> None:
    values = {("chosen", "logp"): (-10.0, -18.0), ("samples", "length"): (20.0, 40.0), ("samples", "kl"): (0.0, 60.0)}
    both = {which: [{"value": value} for value in pair] for which, pair in values.items()}
    assert advice_on_evaluations({which: records[:1] for which, records in both.items()}) == []
    displaced, far, longer = advice_on_evaluations(both)
    assert "8 nats less likely" in displaced
    assert "60 nats" in far
    assert "from 20 to 40 tokens" in longer


def test_a_policy_that_does_not_move_is_said() -> None:
    adviser = Adviser(window=3)
    said = [adviser.check({"reward/accuracy": 0.5}) for _ in range(3)]
    assert said[:2] == [[], []]
    assert "does not move" in said[2][0]
    assert adviser.check({"reward/accuracy": 0.6}) == []
    assert [adviser.check({"reward/accuracy": 0.5}) for _ in range(2)] == [[], []]
    assert len(adviser.check({"reward/accuracy": 0.5})) == 1
    assert Adviser().accuracies.maxlen == 20
