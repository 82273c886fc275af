"""A batch of rollouts and what is measured of it."""

import pytest
import torch
from accelerate import Accelerator

from policy_gradients.config import PolicyGradientConfig, RewardWeights
from policy_gradients.diagnostics import Adviser, UpdateSums, batch_metrics
from policy_gradients.rewards import weigh
from policy_gradients.rollout import Rollouts, collect
from rlhf.embedded.make import character_tokenizer, new_model
from rlhf.scoring import Scorer, Scores, score
from rlhf.tasks import Task, Verdict


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def setting():
    torch.manual_seed(0)
    model = new_model(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1
    ).eval()
    task = Task("spell_backward", {"min_word_len": 3, "max_word_len": 6}, answer_in="text")
    config = PolicyGradientConfig(group_size=3, max_new_tokens=6, temperature=0.8, seed=4)
    return model, character_tokenizer(), task, config


def gather(setting, accelerator, numbers: list[int]) -> Rollouts:
    model, tokenizer, task, config = setting
    problems = [(i, task.train_problems(seed=4, first=i, count=1)[0]) for i in numbers]
    return collect(model, tokenizer, task, problems, accelerator, config)


def test_collected_log_probabilities_are_the_scorers(setting, accelerator) -> None:
    rollouts = gather(setting, accelerator, [0, 1, 2, 3])
    scores = score(Scorer(setting[0]), rollouts.groups, token_budget=10**6, device=torch.device("cpu"), temperature=0.8)
    assert torch.equal(scores.mask, rollouts.mask)
    torch.testing.assert_close(scores.logp, rollouts.logp_sampler, atol=1e-4, rtol=0)
    assert rollouts.reward.shape == (4, 3)
    assert rollouts.truncated.shape == (12,)


def test_completions_belong_to_the_problems_number(setting, accelerator) -> None:
    """However the prompts are spread over processes and batches, number 2 gets the same completions."""
    together = gather(setting, accelerator, [0, 1, 2, 3])
    apart = [gather(setting, accelerator, [i]) for i in range(4)]
    assert [one.texts[0] for one in apart] == together.texts
    assert gather(setting, accelerator, [3, 1]).texts == [together.texts[3], together.texts[1]]


def test_a_part_is_the_rows_of_its_prompts(setting, accelerator) -> None:
    whole = gather(setting, accelerator, [0, 1, 2, 3])
    part = whole.take(range(1, 3))
    assert part.groups == whole.groups[1:3]
    assert part.texts == whole.texts[1:3]
    assert part.problems == whole.problems[1:3]
    assert part.verdicts == whole.verdicts[1:3]
    assert torch.equal(part.reward, whole.reward[1:3])
    for name in ("mask", "logp_sampler", "truncated"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[3:9])


def test_weights_by_hand() -> None:
    verdict = Verdict(exact=1.0, format=0.0, partial=0.5)
    assert weigh(verdict, RewardWeights(exact=2.0, format=7.0, partial=0.5)) == 2.25
    assert weigh(verdict, RewardWeights()) == 1.0, "by default, being right and nothing else"


def made(exact: list[list[float]], lengths: list[int], truncated: list[bool]) -> Rollouts:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Rollouts(
        problems=[],
        groups=[],
        texts=[],
        verdicts=[[Verdict(exact=e, format=1.0, partial=e / 2) for e in row] for row in exact],
        reward=2.0 * torch.tensor(exact),
        truncated=torch.tensor(truncated),
        logp_sampler=torch.zeros(mask.shape),
        mask=mask,
    )


def test_batch_metrics_by_hand(accelerator) -> None:
    """Three groups of two: one solved, one failed, one with contrast. Rewards 2 2 0 0 2 0: mean 1, std 1."""
    rollouts = made([[1, 1], [0, 0], [1, 0]], [1, 2, 3, 4, 5, 3], [True, False, False, False, True, False])
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
        "length/mean": 3.0,
        "length/max": 5.0,
        "length/truncated": 1 / 3,
    }
    assert metrics == {key: pytest.approx(value) for key, value in expected.items()}


def test_update_sums_by_hand(accelerator) -> None:
    """Four tokens count. Stopped by the clip at 0.8 and 1.2: ratio 1.3 with adv > 0, 0.7 with adv < 0; not 1.3 with
    adv < 0. Entropies 1, 2, 3, 6: mean 3. The sampler is off by 0.1, 0, 0.3, 0: mean 0.1. Means over two micro-batches
    of unequal size are means over tokens."""
    sums = UpdateSums()
    mask = torch.tensor([[True, True], [True, False]])
    scores = Scores(torch.tensor([[-1.0, -2.0], [-3.0, 99.0]]), torch.tensor([[1.0, 2.0], [3.0, 99.0]]), mask)
    sums.add(
        scores,
        logp_sampler=torch.tensor([[-1.1, -2.0], [-2.7, 0.0]]),
        ratio=torch.tensor([[1.3, 1.1], [1.3, 50.0]]),
        adv=torch.tensor([[1.0], [-1.0]]),
        kl=torch.tensor([[0.4, 0.0], [0.0, 99.0]]),
        clip=(0.2, 0.2),
    )
    one = torch.tensor([[True]])
    sums.add(
        Scores(torch.tensor([[-1.0]]), torch.tensor([[6.0]]), one),
        logp_sampler=torch.tensor([[-1.0]]),
        ratio=torch.tensor([[0.7]]),
        adv=torch.tensor([[-2.0]]),
        kl=torch.tensor([[0.0]]),
        clip=(0.2, 0.2),
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
        assert adviser.look({**HEALTHY, **changes}) == []
    advice = adviser.look({**HEALTHY, **changes})
    assert [said in text for text in advice] == [True] if said else advice == []
    assert adviser.look(HEALTHY) == []


def test_advice_on_form_without_substance() -> None:
    adviser = Adviser()
    adviser.look(HEALTHY)
    for _ in range(5):
        advice = adviser.look({**HEALTHY, "reward/format": 0.99})
    assert len(advice) == 1
    assert "reward for form" in advice[0]
