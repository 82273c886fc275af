"""Rollouts, the batch they make, and what is measured of it."""

import pytest
import torch
from accelerate import Accelerator

from policy_gradients.config import PolicyGradientConfig, RewardWeights
from policy_gradients.defaults import resolve
from policy_gradients.rewards import Judge
from policy_gradients.rollout import Sampler
from rlhf.embedded.make import character_tokenizer, new_model
from rlhf.errors import UserError
from rlhf.logprobs import Scorer, score
from rlhf.sampling import Sampled
from rlhf.tasks.problem import Problem
from rlhf.tasks.procedural import ProceduralTask

TASK = ProceduralTask("spell_backward", {"min_word_len": 3, "max_word_len": 6}, answer_in="text")


@pytest.fixture
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
