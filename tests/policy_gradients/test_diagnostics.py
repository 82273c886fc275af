"""What is measured of batches and updates, by hand; and what is said when a run cannot learn."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from policy_gradients import diagnostics
from policy_gradients.diagnostics import OF_VERDICTS, Adviser, UpdateSums, batch_metrics, shown
from policy_gradients.rollout import Batch, Rollout
from rlhf.logprobs import Scores
from rlhf.sampling import SampledCompletions
from rlhf.tasks.problem import Problem


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def made(exact: list[list[float]], lengths: list[int], truncated: list[bool]) -> Batch:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    nothing = SampledCompletions([], [], [])
    rollouts = [
        Rollout(
            number=i,
            problem=Problem("", "", {}),
            prompt=[],
            sampled=nothing,
            texts=[],
            components=[{"exact": e, "format": 1.0, "partial": e / 2} for e in row],
            reward=[2 * e for e in row],
        )
        for i, row in enumerate(exact)
    ]
    return Batch(
        rollouts=rollouts,
        groups=[],
        reward=2.0 * torch.tensor(exact),
        length=torch.tensor(lengths),
        truncated=torch.tensor(truncated),
        logp_sampler=torch.zeros(mask.shape),
        mask=mask,
    )


def test_batch_metrics_by_hand(accelerator) -> None:
    """Three groups of two: one solved, one failed, one mixed. Rewards 2 2 0 0 2 0: mean 1, std 1."""
    rollouts = made([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]], [1, 2, 3, 4, 5, 3], [True, False, False, False, True, False])
    metrics = batch_metrics(rollouts, accelerator)
    expected = {
        "reward/mean": 1.0,
        "reward/exact": 0.5,
        "reward/format": 1.0,
        "reward/partial": 0.25,
        "reward/std": 1.0,
        "groups/contrast": 1 / 3,
        "groups/solved": 1 / 3,
        "groups/failed": 1 / 3,
        "groups/drawn": 0.0,
        "sampler/tokens": 0.0,
        "length/mean": 3.0,
        "length/right": 8 / 3,
        "length/wrong": 10 / 3,
        "length/max": 5.0,
        "length/truncated": 1 / 3,
    }
    assert metrics == {key: pytest.approx(value) for key, value in expected.items()}


def test_what_has_no_answer_is_neither_right_nor_wrong(accelerator) -> None:
    """The second of three groups has no reference answer: what is right is over the others, rewards are over all."""
    batch = made([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]], [1] * 6, [False] * 6)
    unverified = replace(batch.rollouts[1], components=[{"mine": 3.0}, {"mine": 4.0}])
    batch.rollouts[1] = unverified
    assert [rollout.is_verified for rollout in batch.rollouts] == [True, False, True]
    metrics = batch_metrics(batch, accelerator)
    found = {
        key: metrics[key] for key in ("reward/exact", "reward/mine", "reward/mean", "groups/solved", "groups/failed")
    }
    assert found == {
        "reward/exact": 0.75,
        "reward/mine": 3.5,
        "reward/mean": 1.0,
        "groups/solved": 0.5,
        "groups/failed": 0.0,
    }
    batch.rollouts = [unverified] * 3
    metrics = batch_metrics(batch, accelerator)
    assert not OF_VERDICTS & metrics.keys()
    assert shown(metrics) == {"reward": "1.00", "length": "1"}


def test_a_group_without_an_answer_is_mixed_where_its_rewards_differ() -> None:
    (rollout,) = made([[1.0, 1.0]], [1, 1], [False, False]).rollouts
    assert not rollout.is_mixed
    assert replace(rollout, components=[{"mine": 1.0}, {"mine": 0.5}], reward=[1.0, 0.5]).is_mixed
    assert not replace(rollout, components=[{"mine": 1.0}, {"mine": 0.5}], reward=[1.0, 1.0]).is_mixed


def test_advice_without_answers() -> None:
    """What is right is not known, so only equal rewards are spoken of."""
    steps = {key: value for key, value in HEALTHY.items() if key not in OF_VERDICTS} | {"groups/contrast": 0.0}
    (advice,) = last_advice([steps] * 5)
    assert "all completions have the same reward" in advice
    assert last_advice([{**steps, "groups/contrast": 0.5}] * 5) == []


def test_update_sums_by_hand(accelerator) -> None:
    """Four tokens count. Stopped by the clip at 0.8 and 1.2: ratio 1.3 with adv > 0, 0.7 with adv < 0; not 1.3 with
    adv < 0. Entropies 1, 2, 3, 6: mean 3. The sampler is off by 0.1, 0, 0.3, 0: mean 0.1. Means over two micro-batches
    of unequal size are means over tokens."""
    sums = UpdateSums()
    mask = torch.tensor([[True, True], [True, False]])
    scores = Scores(torch.tensor([[-1.0, -2.0], [-3.0, 99.0]]), torch.tensor([[1.0, 2.0], [3.0, 99.0]]), mask)
    sums.add(
        scores,
        gap=scores.logp - torch.tensor([[-1.1, -2.0], [-2.7, 0.0]]),
        ratio=torch.tensor([[1.3, 1.1], [1.3, 50.0]]),
        adv=torch.tensor([[1.0], [-1.0]]),
        kl=torch.tensor([[0.4, 0.0], [0.0, 99.0]]),
        clip_low=0.2,
        clip_high=0.2,
    )
    one = torch.tensor([[True]])
    sums.add(
        Scores(torch.tensor([[-1.0]]), torch.tensor([[6.0]]), one),
        gap=torch.tensor([[0.0]]),
        ratio=torch.tensor([[0.7]]),
        adv=torch.tensor([[-2.0]]),
        kl=torch.tensor([[0.0]]),
        clip_low=0.2,
        clip_high=0.2,
    )
    means = sums.means(accelerator, has_ratio=True)
    assert means == {
        "policy/entropy": pytest.approx(3),
        "sampler/logp_gap": pytest.approx(0.1, rel=1e-5),
        "policy/kl": pytest.approx(0.1),
        "policy/clip_fraction": pytest.approx(0.5),
        "policy/ratio_min": pytest.approx(0.7),
        "policy/ratio_max": pytest.approx(1.3),
    }


HEALTHY = {
    "groups/contrast": 0.5,
    "groups/failed": 0.2,
    "groups/solved": 0.2,
    "length/truncated": 0.0,
    "reward/format": 0.5,
    "reward/exact": 0.4,
    "policy/entropy": 0.5,
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"groups/contrast": 0.0, "groups/failed": 1.0}, "No completion is right"),
        ({"groups/contrast": 0.0, "groups/solved": 1.0}, "solved completely"),
        ({"length/truncated": 0.9}, "cut at max_new_tokens"),
        ({"policy/kl": 2.0}, "nat per token"),
        ({"policy/entropy": 0.001}, "Entropy is nearly 0"),
    ],
)
def test_advice(changes: dict[str, float], said: str | None) -> None:
    """After five bad steps in a row, and not after four."""
    adviser = Adviser()
    for _ in range(4):
        assert adviser.check({**HEALTHY, **changes}) == []
    advice = adviser.check({**HEALTHY, **changes})
    assert [said in text for text in advice] == [True] if said else advice == []
    assert adviser.check(HEALTHY) == []


def test_advice_on_form_without_substance() -> None:
    adviser = Adviser()
    adviser.check(HEALTHY)
    for _ in range(5):
        advice = adviser.check({**HEALTHY, "reward/format": 0.99})
    assert len(advice) == 1
    assert "reward for form" in advice[0]


def test_advice_on_a_reward_model_that_is_gamed() -> None:
    """Its score up while fewer are right; not while both go up."""
    for exact, said in ((0.2, True), (0.8, False)):
        adviser = Adviser()
        adviser.check({**HEALTHY, "reward/model": 1.0})
        for _ in range(5):
            advice = adviser.check({**HEALTHY, "reward/model": 2.0, "reward/exact": exact})
        assert ["what it overrates" in text for text in advice] == [True] * said


# ------------------------------------------------------------------------------------------------------ more by hand


def add(sums: UpdateSums, logp, mask, *, ratio=None, adv=None, **given) -> None:
    logp = torch.tensor(logp)
    sums.add(
        Scores(logp, torch.zeros_like(logp), torch.tensor(mask)),
        gap=None,
        ratio=None if ratio is None else torch.tensor(ratio),
        adv=torch.ones(len(logp), 1) if adv is None else torch.tensor(adv),
        kl=None,
        **given,
    )


def test_ratios_may_all_be_on_one_side_of_one(accelerator) -> None:
    sums = UpdateSums()
    add(sums, [[0.0, 0.0]], [[True, False]], ratio=[[1.3, 9.0]])
    add(sums, [[0.0, 0.0]], [[True, True]], ratio=[[1.5, 1.2]])
    means = sums.means(accelerator, has_ratio=True)
    assert (means["policy/ratio_min"], means["policy/ratio_max"]) == (pytest.approx(1.2), pytest.approx(1.5))
    assert "policy/ratio_min" not in sums.means(accelerator, has_ratio=False)


def test_an_update_without_a_token_has_no_extremes(accelerator) -> None:
    sums = UpdateSums()
    add(sums, [[0.0]], [[False]], ratio=[[1.3]])
    assert sums.means(accelerator, has_ratio=True) == {"policy/entropy": 0.0}
    assert UpdateSums().means(accelerator, has_ratio=True) == {}


def test_a_clip_without_a_lower_bound_holds_from_above_alone(accelerator) -> None:
    """CISPO: weights above 1 + high are cut whichever way the advantage pushes."""
    ratio, adv = [[1.5, 1.5, 0.1, 1.2]], [[1.0, -1.0, -1.0, 1.0]]
    for clip_low, share in ((None, 0.5), (0.2, 0.5)):
        sums = UpdateSums()
        add(sums, [[0.0] * 4], [[True] * 4], ratio=ratio, adv=adv, clip_low=clip_low, clip_high=0.28)
        assert sums.means(accelerator, has_ratio=True)["policy/clip_fraction"] == share
    sums = UpdateSums()
    add(sums, [[0.0] * 4], [[True] * 4], ratio=ratio, adv=[[-1.0, -1.0, 1.0, 1.0]], clip_low=None, clip_high=0.28)
    assert sums.means(accelerator, has_ratio=True)["policy/clip_fraction"] == 0.5
    sums = UpdateSums()
    add(sums, [[0.0] * 4], [[True] * 4], ratio=ratio, adv=[[-1.0, -1.0, 1.0, 1.0]], clip_low=0.2, clip_high=0.28)
    assert sums.means(accelerator, has_ratio=True)["policy/clip_fraction"] == 0.0
    sums = UpdateSums()
    add(sums, [[0.0] * 4], [[True] * 4], ratio=ratio)
    assert "policy/clip_fraction" not in sums.means(accelerator, has_ratio=True)


def test_a_ratio_at_the_clip_is_not_held_back(accelerator) -> None:
    """Bounds of 1/2 and 3/2, which fp32 has exactly: at them the gradient still flows, one step beyond it does not."""
    at, beyond = [[1.5, 0.5]], [[1.5 + 2**-20, 0.5 - 2**-20]]
    for clip_low, adv in ((0.5, [[1.0, -1.0]]), (None, [[1.0, 1.0]])):
        for ratio, held in ((at, 0), (beyond, 2 if clip_low else 1)):
            sums = UpdateSums()
            add(sums, [[0.0] * 2], [[True] * 2], ratio=ratio, adv=adv, clip_low=clip_low, clip_high=0.5)
            assert sums.means(accelerator, has_ratio=True)["policy/clip_fraction"] == held / 2
    sums = UpdateSums()
    add(sums, [[0.0] * 2], [[True] * 2], ratio=[[9.0, 0.1]], adv=[[0.0, 0.0]], clip_low=0.5, clip_high=0.5)
    assert sums.means(accelerator, has_ratio=True)["policy/clip_fraction"] == 0, "an advantage of 0 pushes nowhere"


def test_importance_weights_are_averaged_over_tokens(accelerator) -> None:
    sums = UpdateSums()
    add(sums, [[0.0, 0.0]], [[True, False]], weight=torch.tensor([[2.0, 9.0]]))
    add(sums, [[0.0, 0.0]], [[True, True]], weight=torch.tensor([[0.5, 0.0]]))
    assert sums.means(accelerator, has_ratio=False)["policy/importance"] == pytest.approx(2.5 / 3)


def test_processes_are_added_up(accelerator, monkeypatch) -> None:
    """One with two tokens, one with a single token and other keys, one without any micro-batch."""
    first, second = UpdateSums(), UpdateSums()
    add(first, [[0.0, 0.0]], [[True, True]], ratio=[[0.9, 1.1]], weight=torch.tensor([[1.0, 2.0]]))
    add(second, [[0.0, 0.0]], [[True, False]], ratio=[[1.4, 7.0]], weight=torch.tensor([[6.0, 0.0]]))
    monkeypatch.setattr(diagnostics, "gather", lambda mine, _: [first, second, UpdateSums()])
    for own in (first, UpdateSums()):
        means = own.means(accelerator, has_ratio=True)
        assert means == {
            "policy/entropy": 0.0, "policy/importance": 3.0,
            "policy/ratio_min": pytest.approx(0.9), "policy/ratio_max": pytest.approx(1.4),
        }  # fmt: skip


def test_the_spread_of_equal_rewards_is_0(accelerator) -> None:
    """In fp32 the mean square may fall below the squared mean."""
    batch = made([[0.1] * 3] * 3, [1] * 9, [False] * 9)
    metrics = batch_metrics(batch, accelerator)
    assert metrics["reward/std"] == pytest.approx(0, abs=1e-3)
    assert metrics["groups/contrast"] == 0
    assert (metrics["groups/solved"], metrics["groups/failed"]) == (0, 0)


THRESHOLDS = [
    ({"groups/contrast": 0.04, "groups/failed": 0.91}, {"groups/contrast": 0.05}, {"groups/failed": 0.9}),
    ({"groups/contrast": 0.04, "groups/solved": 0.91}, {"groups/contrast": 0.05}, {"groups/solved": 0.9}),
    ({"length/truncated": 0.81}, {"length/truncated": 0.8}),
    ({"policy/kl": 1.01}, {"policy/kl": 1.0}),
    ({"policy/entropy": 0.0049, "reward/exact": 0.4}, {"policy/entropy": 0.005}, {"reward/exact": 0.9}),
    (
        {"critic/explained_variance": -0.01, "reward/std": 0.11},
        {"critic/explained_variance": 0.0},
        {"reward/std": 0.1},
    ),
]


@pytest.mark.parametrize("case", THRESHOLDS)
def test_where_advice_begins(case) -> None:
    """Just beyond its bounds in all of five steps it is given; at a bound in one of them it is not."""
    beyond, *at_bounds = case
    assert len(last_advice([{**HEALTHY, **beyond}] * 5)) == 1
    for bound in at_bounds:
        assert last_advice([{**HEALTHY, **beyond}] * 4 + [{**HEALTHY, **beyond, **bound}]) == []


def last_advice(steps) -> list[str]:
    adviser, advice = Adviser(), []
    for metrics in steps:
        advice = adviser.check(metrics)
    return advice


def test_form_without_substance_is_against_the_first_step() -> None:
    """Form above 0.95 and 0.2 above the first; right answers less than 0.02 more than at first."""
    for form, exact, said in ((0.96, 0.41, 1), (0.95, 0.41, 0), (0.96, 0.43, 0), (0.96, 0.1, 1)):
        steps = [HEALTHY] + [{**HEALTHY, "reward/format": form, "reward/exact": exact}] * 5
        assert len(last_advice(steps)) == said
    tidy = {**HEALTHY, "reward/format": 0.8}
    assert last_advice([tidy] + [{**tidy, "reward/format": 0.99}] * 5) == []


def test_a_reward_model_is_gamed_when_it_rises_and_right_answers_fall() -> None:
    first = {**HEALTHY, "reward/model": 1.0}
    for model, exact, said in ((1.01, 0.34, 1), (1.0, 0.34, 0), (1.01, 0.36, 0)):
        assert len(last_advice([first] + [{**first, "reward/model": model, "reward/exact": exact}] * 5)) == said
