"""Rollouts, the batch they make, and what is measured of it."""

import pytest
import torch
from accelerate import Accelerator

from policy_gradients.config import PolicyGradientConfig, RewardWeights
from policy_gradients.diagnostics import Adviser, UpdateSums, batch_metrics
from policy_gradients.resolve import resolve
from policy_gradients.rewards import Judge
from policy_gradients.rollout import Batch, Rollout, Sampler
from rlhf.embedded.make import character_tokenizer, new_model
from rlhf.errors import UserError
from rlhf.sampling import Sampled
from rlhf.scoring import Scorer, Scores, score
from rlhf.tasks import Problem, Task

TASK = Task("spell_backward", {"min_word_len": 3, "max_word_len": 6}, answer_in="text")


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    return new_model(**sizes, num_attention_heads=2, num_key_value_heads=1).eval()


def sampler(model, accelerator, judge: Judge | None = None, **settings) -> Sampler:
    given = {"group_size": 3, "max_new_tokens": 6, "temperature": 0.8, "seed": 4, "prompts_per_step": 4, **settings}
    config, _ = resolve(PolicyGradientConfig(**given))
    judge = judge or Judge(TASK, config.reward_weights, {})
    return Sampler(model, character_tokenizer(), TASK, judge, accelerator, config)


def test_collected_log_probabilities_are_the_scorers(model, accelerator) -> None:
    it = sampler(model, accelerator)
    rollouts, following = it.draw(0)
    batch = it.batch(rollouts)
    scores = score(Scorer(model), batch.groups, token_budget=10**6, device=torch.device("cpu"), temperature=0.8)
    assert torch.equal(scores.mask, batch.mask)
    torch.testing.assert_close(scores.logp, batch.logp_sampler, atol=1e-4, rtol=0)
    assert (batch.reward.shape, batch.truncated.shape, following) == ((4, 3), (12,), 4)


def test_completions_belong_to_the_problems_number(model, accelerator) -> None:
    """However the prompts are spread over batches, number 2 gets the same completions."""
    together, _ = sampler(model, accelerator).draw(0)
    one_by_one = [sampler(model, accelerator, prompts_per_step=1).draw(i)[0][0] for i in range(4)]
    assert [it.sampled.tokens for it in one_by_one] == [it.sampled.tokens for it in together]


def test_waiting_batches_come_back_as_they_were(model, accelerator) -> None:
    """What a checkpoint keeps of rollouts that are to be trained on later."""
    import json

    it = sampler(model, accelerator)
    rollouts, _ = it.draw(3)
    assert it.from_state(json.loads(json.dumps(it.to_state(rollouts)))) == rollouts


def test_cut_completions_can_be_left_out_of_the_loss(model, accelerator) -> None:
    rollouts, _ = sampler(model, accelerator).draw(0)
    cut = [i for it in rollouts for i in it.sampled.truncated]
    assert any(cut)
    kept = sampler(model, accelerator).batch(rollouts)
    masked = sampler(model, accelerator, truncated="mask").batch(rollouts)
    assert kept.mask.any(1).all()
    assert (~masked.mask.any(1)).tolist() == cut
    scores = score(Scorer(model), masked.groups, token_budget=40, device=torch.device("cpu"))
    assert torch.equal(scores.mask.any(1), masked.mask.any(1))


def test_cut_completions_can_be_penalized(model, accelerator) -> None:
    rollouts, _ = sampler(model, accelerator, truncated="penalize", overlong_buffer=0.0).draw(0)
    for it in rollouts:
        assert it.reward == [p["exact"] - (len(t) == 6) for p, t in zip(it.parts, it.sampled.tokens, strict=True)]


class ByNumber(Judge):
    """Right and wrong by the prompt: a third of the prompts have contrast."""

    def __init__(self):
        super().__init__(TASK, RewardWeights(), {})
        self.seen: dict[str, int] = {}

    def parts(self, problem: Problem, completion: str) -> dict[str, float]:
        at = self.seen[problem.question] = self.seen.get(problem.question, -1) + 1
        kind = len(problem.question) % 3
        return {"exact": [0.0, 1.0, float(at % 2)][kind], "format": float(at % 2), "partial": 0.3}


def test_groups_without_contrast_are_replaced(model, accelerator) -> None:
    """By exact success: every group here has contrast in its format."""
    plain, following = sampler(model, accelerator, ByNumber()).draw(0)
    assert following == 4
    assert not all(it.contrast for it in plain)
    rollouts, following = sampler(model, accelerator, ByNumber(), resample_rounds=9).draw(0)
    assert len(rollouts) == 4
    assert all(it.contrast for it in rollouts)
    assert following > 4
    assert following % 4 == 0
    assert [it.number for it in rollouts] == sorted(it.number for it in rollouts)


def test_resampling_is_bounded(model, accelerator) -> None:
    """A random model is always wrong. Before any contrast was seen that is an error; later the batch is filled."""
    it = sampler(model, accelerator, resample_rounds=2)
    with pytest.raises(UserError, match="none of 12 groups has both right and wrong"):
        it.draw(0, any_contrast_yet=False)
    rollouts, following = it.draw(0, any_contrast_yet=True)
    assert ([one.number for one in rollouts], following) == ([0, 1, 2, 3], 12)


def test_stopping_at_the_answer(model, accelerator) -> None:
    """What follows </answer> is gone, and a completion that said it was not cut short."""
    it = sampler(model, accelerator, stop_at="answer")
    said, more = (it.tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("<answer>ab</answer>", "<answer>"))
    tokens = [[*said, *more, *more], said, [*more, *more]]
    sampled = Sampled(tokens, logp=[[-float(i) for i in range(len(t))] for t in tokens], truncated=[True, True, True])
    stopped = it._up_to_the_answer(sampled)
    assert stopped.tokens == [said, said, [*more, *more]]
    assert stopped.logp == [sampled.logp[0][: len(said)], sampled.logp[1], sampled.logp[2]]
    assert stopped.truncated == [False, False, True]


def test_weights_by_hand() -> None:
    parts = {"exact": 1.0, "format": 0.0, "partial": 0.5}
    assert Judge(TASK, RewardWeights(exact=2.0, format=7.0, partial=0.5), {}).weigh(parts) == 2.25
    assert Judge(TASK, RewardWeights(), {}).weigh(parts) == 1.0, "by default, being right and nothing else"


def made(exact: list[list[float]], lengths: list[int], truncated: list[bool]) -> Batch:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    nothing = Sampled([], [], [])
    rollouts = [
        Rollout(
            number=i,
            problem=Problem("", "", {}),
            prompt=[],
            sampled=nothing,
            texts=[],
            parts=[{"exact": e, "format": 1.0, "partial": e / 2} for e in row],
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
    """Three groups of two: one solved, one failed, one with contrast. Rewards 2 2 0 0 2 0: mean 1, std 1."""
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


def test_advice_on_a_reward_model_that_is_gamed() -> None:
    """Its score up while fewer are right; not while both go up."""
    for exact, said in ((0.2, True), (0.8, False)):
        adviser = Adviser()
        adviser.look({**HEALTHY, "reward/model": 1.0})
        for _ in range(5):
            advice = adviser.look({**HEALTHY, "reward/model": 2.0, "reward/exact": exact})
        assert ["what it overrates" in text for text in advice] == [True] * said
