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
from rlhf.text.chat import encode_prompt

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


# ----------------------------------------------------------------------------------- what is asked, kept and shown


def says(monkeypatch: pytest.MonkeyPatch, texts: list[list[str]], *, cut: bool = False) -> None:
    """The policy says these texts, by prompt and completion."""

    def answer(_model, prompts, **_) -> list[Sampled]:
        tokens = [[character_tokenizer().encode(text, add_special_tokens=False) for text in own] for own in texts]
        return [
            Sampled(own, [[-0.5 * (k + 1) for k in range(len(it))] for it in own], [cut] * len(own))
            for own in tokens[: len(prompts)]
        ]

    monkeypatch.setattr("policy_gradients.rollout.sample", answer)


@pytest.mark.parametrize("stop_at", ["end", "answer"])
def test_what_follows_the_answer_is_neither_judged_nor_learned(model, accelerator, monkeypatch, stop_at: str) -> None:
    """Where the config says so; elsewhere all of it is, the end token too."""
    long, plain = "<answer>a</answer> or b<|end|>", "<answer>a<|end|>"
    says(monkeypatch, [[long, plain]], cut=True)
    it = sampler(model, accelerator, prompts_per_step=1, group_size=2, stop_at=stop_at, max_new_tokens=40)
    ((rollout,), _) = it.draw(0)
    first = "<answer>a</answer>" if stop_at == "answer" else long.removesuffix("<|end|>")
    assert rollout.texts == [first, plain.removesuffix("<|end|>")]
    kept = len(it.tokenizer.encode("<answer>a</answer>" if stop_at == "answer" else long, add_special_tokens=False))
    assert [len(rollout.sampled.tokens[0]), len(rollout.sampled.logp[0])] == [kept, kept]
    assert rollout.sampled.truncated == [stop_at == "end", True]
    batch = it.batch([rollout])
    assert batch.length.tolist() == [len(tokens) for tokens in rollout.sampled.tokens]


def test_problems_are_looked_at_as_they_will_be_asked(model, accelerator, monkeypatch) -> None:
    """With the system prompt, by the tokenizer's words, and with room for the completion."""
    it = sampler(model, accelerator, system_prompt="Be brief.", max_new_tokens=17)
    problems, asked = TASK.held_out_problems(3), []
    monkeypatch.setattr("policy_gradients.rollout.refuse_unknown_prompts", lambda *given: asked.append(given))
    monkeypatch.setattr("policy_gradients.rollout.refuse_long_prompts", lambda *given: asked.append(given))
    it.refuse_unreadable(problems)
    words = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": problem.question}]
        for problem in problems
    ]
    prompts = [encode_prompt(it.tokenizer, messages) for messages in words]
    assert asked == [(it.tokenizer, prompts), (model, prompts, 17)]


def test_a_prompt_that_the_model_cannot_read_is_refused(model, accelerator) -> None:
    with pytest.raises(UserError):
        sampler(model, accelerator, max_new_tokens=10**6).refuse_unreadable(TASK.held_out_problems(1))
    unknown = Problem("\u2603", "", {})
    with pytest.raises(UserError):
        sampler(model, accelerator).refuse_unreadable([unknown])


def test_what_was_said_is_said_though_it_does_not_count(model, accelerator) -> None:
    for truncated in ("keep", "mask"):
        it = sampler(model, accelerator, truncated=truncated)
        batch = it.batch(it.draw(0)[0])
        lengths = [len(tokens) for one in batch.rollouts for tokens in one.sampled.tokens]
        assert batch.length.tolist() == lengths
        assert batch.said.tolist() == [[k < n for k in range(max(lengths))] for n in lengths]
        assert torch.equal(batch.mask, batch.said) == (truncated == "keep")
        assert batch.said.shape == batch.mask.shape


def test_samples_show_the_first_completion_of_the_first_prompts(model, accelerator) -> None:
    it = sampler(model, accelerator, prompts_per_step=5)
    batch = it.batch(it.draw(0)[0])
    assert len(batch.samples()) == 4
    shown = batch.samples(2)
    assert shown == [
        {
            "prompt": rollout.problem.question,
            "completion": rollout.texts[0],
            "answer": rollout.problem.answer,
            "reward": rollout.parts[0],
            "total": rollout.reward[0],
        }
        for rollout in batch.rollouts[:2]
    ]


def test_a_batch_holds_what_its_rollouts_hold(model, accelerator) -> None:
    it = sampler(model, accelerator)
    rollouts, _ = it.draw(2)
    batch = it.batch(rollouts)
    assert batch.rollouts == rollouts
    assert [rollout.number for rollout in rollouts] == [2, 3, 4, 5]
    assert batch.reward.tolist() == [pytest.approx(rollout.reward) for rollout in rollouts]
    assert [group.prompt for group in batch.groups] == [rollout.prompt for rollout in rollouts]
    assert [group.completions for group in batch.groups] == [rollout.sampled.tokens for rollout in rollouts]
    assert batch.truncated.tolist() == [cut for rollout in rollouts for cut in rollout.sampled.truncated]
    flat = [logp for rollout in rollouts for logp in rollout.sampled.logp]
    for row, logp in zip(batch.logp_sampler.tolist(), flat, strict=True):
        assert row == pytest.approx(logp + [0.0] * (len(row) - len(logp)))


def test_what_a_checkpoint_keeps_is_what_cannot_be_made_again(model, accelerator) -> None:
    it = sampler(model, accelerator, system_prompt="Be brief.")
    rollouts, _ = it.draw(7)
    state = it.to_state(rollouts)
    assert state == [
        {
            "number": rollout.number,
            "tokens": rollout.sampled.tokens,
            "logp": rollout.sampled.logp,
            "truncated": rollout.sampled.truncated,
        }
        for rollout in rollouts
    ]
    assert it.from_state(state[1:]) == rollouts[1:]
    assert it.from_state([]) == []


def test_each_process_keeps_its_share_of_a_state_of_all(model, accelerator, monkeypatch) -> None:
    it = sampler(model, accelerator)
    rollouts, _ = it.draw(0)
    monkeypatch.setattr("policy_gradients.rollout.gather", lambda items, _: [*items, *items])
    assert [one["number"] for one in it.to_state(rollouts)] == [0, 1, 2, 3, 0, 1, 2, 3]
    monkeypatch.setattr("policy_gradients.rollout.share", lambda items, _: items[1::2])
    state = [{"number": one.number} | vars(one.sampled) for one in rollouts]
    assert it.from_state(state) == rollouts[1::2]
    mine, following = it.draw(0)
    assert ([one.number for one in mine], following) == ([1, 3], 4)


def test_what_resampling_found_is_said(model, accelerator, monkeypatch) -> None:
    """All right, all wrong, or some of each; how many groups were drawn."""
    for verdicts, said in (((1.0,), "100% are all right, 0% all wrong"), ((0.0,), "0% are all right, 100% all wrong")):
        it = sampler(model, accelerator, resample_rounds=1)
        monkeypatch.setattr(it.judge, "parts", lambda *_, v=verdicts: {"exact": v[0], "format": 1.0, "partial": 0.0})
        with pytest.raises(UserError, match=f"none of 8 groups has both right and wrong completions .{said}"):
            it.draw(0, any_contrast_yet=False)
