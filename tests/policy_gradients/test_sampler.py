"""The sampler: which completions are drawn, what they are rewarded with, and the batch that they make."""

import itertools
import json

import pytest
import torch
from accelerate import Accelerator
from tiny_models import tiny_model
from torch import nn

from policy_gradients import sampler as module
from policy_gradients.config import PolicyGradientConfig, RewardWeights
from policy_gradients.defaults import resolve
from policy_gradients.rewards import RewardFunction
from policy_gradients.rollout import Rollout
from policy_gradients.sampler import Sampler
from rlhf.embedded.make import character_tokenizer, new_model
from rlhf.errors import UserError
from rlhf.logprobs import Scorer, score
from rlhf.sampling import SampledCompletions
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


def sampler(model, accelerator, reward: RewardFunction | None = None, **settings) -> Sampler:
    given = {"group_size": 3, "max_new_tokens": 6, "temperature": 0.8, "seed": 4, "prompts_per_step": 4, **settings}
    recipe = resolve(PolicyGradientConfig(**given))
    reward = reward or RewardFunction(TASK, recipe.config.reward_weights, {})
    return Sampler(model, character_tokenizer(), TASK, reward, accelerator, recipe)


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


@pytest.mark.parametrize("algorithm", ["grpo", "remax"])
def test_waiting_batches_come_back_as_they_were(model, accelerator, algorithm: str) -> None:
    """What a checkpoint keeps of rollouts that are to be trained on later."""
    it = sampler(model, accelerator, algorithm=algorithm)
    rollouts, _ = it.draw(3)
    assert it.from_state(json.loads(json.dumps(it.to_state(rollouts)))) == rollouts
    assert all((rollout.greedy is not None) == (algorithm == "remax") for rollout in rollouts)


def test_a_greedy_completion_has_the_likeliest_tokens(model, accelerator) -> None:
    """One beside the sampled ones of each prompt, which stay as they are without it."""
    rollouts, _ = sampler(model, accelerator, algorithm="remax").draw(0)
    plain, _ = sampler(model, accelerator).draw(0)
    assert [it.sampled for it in rollouts] == [it.sampled for it in plain]
    for rollout in rollouts:
        assert rollout.greedy is not None
        (tokens,) = rollout.greedy.sampled.tokens
        logits = model(input_ids=torch.tensor([[*rollout.prompt, *tokens]])).logits[0, len(rollout.prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == tokens


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
        assert it.reward == [p["exact"] - (len(t) == 6) for p, t in zip(it.components, it.sampled.tokens, strict=True)]


def test_right_completions_pay_for_their_length(model, accelerator) -> None:
    """Of lengths 1, 2, 5, 3 the second is wrong: mean 3 and std sqrt(8/3) of the others. A group without a right one,
    and one whose right ones are equally long, show no difference."""
    it = sampler(model, accelerator, length_penalty=0.5)
    components = [{"exact": 1.0}, {"exact": 0.0}, {"exact": 1.0}, {"exact": 1.0}]
    sampled = SampledCompletions([[9] * n for n in (1, 2, 5, 3)], [[0.0] * n for n in (1, 2, 5, 3)], [False] * 4)
    z = torch.tensor([-2.0, 2.0, 0.0], dtype=torch.float64) / (8 / 3) ** 0.5
    wanted = (1 - 0.5 * z.sigmoid()).tolist()
    assert it._totals(components, sampled) == pytest.approx([wanted[0], 0.0, wanted[1], wanted[2]])
    assert it._totals([{"exact": 0.0}] * 4, sampled) == [0.0] * 4
    assert it._totals([{"exact": 1.0}, *[{"exact": 0.0}] * 3], sampled) == pytest.approx([0.75, 0, 0, 0])
    assert sampler(model, accelerator)._totals(components, sampled) == [1.0, 0.0, 1.0, 1.0]


class ByNumber(RewardFunction):
    """Right and wrong by the prompt: a third of the prompts have mixed outcomes."""

    def __init__(self):
        super().__init__(TASK, RewardWeights(), {})
        self.seen: dict[str, int] = {}

    def of_text(self, problem: Problem, completion: str) -> dict[str, float]:
        at = self.seen[problem.question] = self.seen.get(problem.question, -1) + 1
        kind = len(problem.question) % 3
        return {"exact": [0.0, 1.0, float(at % 2)][kind], "format": float(at % 2), "partial": 0.3}


def test_uniform_groups_are_replaced(model, accelerator) -> None:
    """By exact success: the formats of every group here are mixed."""
    plain, following = sampler(model, accelerator, ByNumber()).draw(0)
    assert following == 4
    assert not all(it.is_mixed for it in plain)
    rollouts, following = sampler(model, accelerator, ByNumber(), resample_rounds=9).draw(0)
    assert len(rollouts) == 4
    assert all(it.is_mixed for it in rollouts)
    assert following > 4
    assert following % 4 == 0
    assert [it.number for it in rollouts] == sorted(it.number for it in rollouts)


def test_resampling_is_bounded(model, accelerator) -> None:
    """A random model is always wrong. Before any mixed group was seen that is an error; later the batch is filled."""
    it = sampler(model, accelerator, resample_rounds=2)
    with pytest.raises(UserError, match="none of 12 groups has both right and wrong"):
        it.draw(0, any_mixed_yet=False)
    rollouts, following = it.draw(0, any_mixed_yet=True)
    assert ([one.number for one in rollouts], following) == ([0, 1, 2, 3], 12)


def test_stopping_at_the_answer(model, accelerator) -> None:
    """What follows </answer> is gone, and a completion that said it was not cut short."""
    it = sampler(model, accelerator, stop_at="answer")
    said, more = (it.tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("<answer>ab</answer>", "<answer>"))
    tokens = [[*said, *more, *more], said, [*more, *more]]
    sampled = SampledCompletions(
        tokens, logp=[[-float(i) for i in range(len(t))] for t in tokens], truncated=[True, True, True]
    )
    stopped = it._up_to_the_answer(sampled)
    assert stopped.tokens == [said, said, [*more, *more]]
    assert stopped.logp == [sampled.logp[0][: len(said)], sampled.logp[1], sampled.logp[2]]
    assert stopped.truncated == [False, False, True]


def test_weights_by_hand() -> None:
    components = {"exact": 1.0, "format": 0.0, "partial": 0.5}
    assert RewardFunction(TASK, RewardWeights(exact=2.0, format=7.0, partial=0.5), {}).total(components) == 2.25
    assert RewardFunction(TASK, RewardWeights(), {}).total(components) == 1.0, "by default, success alone"


(PROBLEM,) = TASK.train_problems(seed=0, first=0, count=1)


def sampler_of(**settings: object) -> Sampler:
    recipe = resolve(PolicyGradientConfig(**settings))
    reward = RewardFunction(TASK, recipe.config.reward_weights, {})
    return Sampler(tiny_model("qwen3", layers=1), character_tokenizer(), TASK, reward, Accelerator(cpu=True), recipe)


def test_sampling_follows_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, keys and prompts as `sample` gets them. A problem's key is its number, wherever it stands."""
    calls = []

    def spy(
        _model: nn.Module, prompts: list[list[int]], *, completions: int, **how: object
    ) -> list[SampledCompletions]:
        calls.append((prompts, {"completions": completions, **how}))
        one = SampledCompletions(
            tokens=[[9]] * completions, logp=[[-1.0]] * completions, truncated=[False] * completions
        )
        return [one] * len(prompts)

    monkeypatch.setattr(module, "sample", spy)
    tokenizer = character_tokenizer()
    given = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "sampling_batch": 11, "max_new_tokens": 13, "group_size": 3}
    it = sampler_of(**given, seed=4, prompts_per_step=2, system_prompt="Be brief.")
    rollouts, following = it.draw(6)
    ((prompts, how),) = calls
    assert following == 8
    assert how == {
        "completions": 3, "max_new_tokens": 13, "end_tokens": it.end_tokens, "keys": [(4, 6), (4, 7)],
        "temperature": 0.7, "top_k": 5, "top_p": 0.9, "batch": 11,
    }  # fmt: skip
    for prompt, made in zip(prompts, rollouts, strict=True):
        assert made.prompt == prompt
        assert "Be brief." in tokenizer.decode(prompt)
        assert made.problem.question in tokenizer.decode(prompt)


def test_mixed_means_right_and_wrong_whatever_the_rewards() -> None:
    """Two wrong completions of unequal reward are not mixed; a right and a wrong one are, though both earn the same."""

    def rollout_of(exact: list[float], reward: list[float]) -> Rollout:
        components = [
            {"exact": e, "format": float(i), "partial": r} for i, (e, r) in enumerate(zip(exact, reward, strict=True))
        ]
        return Rollout(0, PROBLEM, [1], SampledCompletions([], [], []), [], components, reward)

    assert not rollout_of([0.0, 0.0], [0.1, 0.7]).is_mixed
    assert rollout_of([1.0, 0.0], [0.5, 0.5]).is_mixed


def test_resampling_ends_when_the_batch_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each group is mixed, so one round of two prompts is enough."""
    one = SampledCompletions(tokens=[[9], [9]], logp=[[-1.0], [-1.0]], truncated=[False, False])
    monkeypatch.setattr(module, "sample", lambda _model, prompts, **_: [one] * len(prompts))
    it, verdicts = sampler_of(prompts_per_step=2, group_size=2, resample_rounds=5), itertools.cycle([1.0, 0.0])
    monkeypatch.setattr(it.reward, "of_text", lambda *_: {"exact": next(verdicts), "format": 1.0, "partial": 0.0})
    rollouts, following = it.draw(0)
    assert ([made.number for made in rollouts], following) == ([0, 1], 2)


def test_the_mask_ends_with_the_completion() -> None:
    it = sampler_of(group_size=3)
    lengths = (1, 3, 2)
    sampled = SampledCompletions([[9] * n for n in lengths], [[-1.0] * n for n in lengths], [False] * 3)
    batch = it.batch(it.reward_rollouts([(0, PROBLEM, [1])], [sampled]))
    assert batch.mask.tolist() == [[True, False, False], [True] * 3, [True, True, False]]
    assert batch.logp_sampler.tolist() == [[-1, 0, 0], [-1, -1, -1], [-1, -1, 0]]


def test_the_overlong_penalty_grows_within_the_buffer() -> None:
    """Of 10 tokens the last half is charged: 0.4 at 7 tokens, 1 at 10; nothing where the config does not ask for it."""
    for how, charged in (("penalize", [0.0, 0.4, 1.0]), ("keep", [0.0] * 3), ("mask", [0.0] * 3)):
        it = sampler_of(max_new_tokens=10, truncated=how, overlong_buffer=0.5 if how == "penalize" else None)
        lengths = (5, 7, 10)
        sampled = SampledCompletions([[9] * n for n in lengths], [[0.0] * n for n in lengths], [False, False, True])
        (made,) = it.reward_rollouts([(0, PROBLEM, [1])], [sampled])
        assert made.reward == pytest.approx([-c for c in charged])


# ------------------------------------------------------------ prompts, batches, checkpoints


def says(monkeypatch: pytest.MonkeyPatch, texts: list[list[str]], *, cut: bool = False) -> None:
    """The policy says these texts, by prompt and completion."""

    def answer(_model, prompts, **_) -> list[SampledCompletions]:
        tokens = [[character_tokenizer().encode(text, add_special_tokens=False) for text in own] for own in texts]
        return [
            SampledCompletions(own, [[-0.5 * (k + 1) for k in range(len(it))] for it in own], [cut] * len(own))
            for own in tokens[: len(prompts)]
        ]

    monkeypatch.setattr("policy_gradients.sampler.sample", answer)


@pytest.mark.parametrize("stop_at", ["end", "answer"])
def test_what_follows_the_answer_is_neither_rewarded_nor_trained_on(
    model, accelerator, monkeypatch, stop_at: str
) -> None:
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


def test_generated_tokens_include_those_that_do_not_count(model, accelerator) -> None:
    for truncated in ("keep", "mask"):
        it = sampler(model, accelerator, truncated=truncated)
        batch = it.batch(it.draw(0)[0])
        lengths = [len(tokens) for one in batch.rollouts for tokens in one.sampled.tokens]
        assert batch.length.tolist() == lengths
        assert batch.generated.tolist() == [[k < n for k in range(max(lengths))] for n in lengths]
        assert torch.equal(batch.mask, batch.generated) == (truncated == "keep")
        assert batch.generated.shape == batch.mask.shape


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
            "reward": rollout.components[0],
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


def test_a_checkpoint_keeps_what_cannot_be_computed_again(model, accelerator) -> None:
    it = sampler(model, accelerator, system_prompt="Be brief.")
    rollouts, _ = it.draw(7)
    state = it.to_state(rollouts)
    assert state == [
        {
            "number": rollout.number,
            "policy": 0,
            "tokens": rollout.sampled.tokens,
            "logp": rollout.sampled.logp,
            "truncated": rollout.sampled.truncated,
        }
        for rollout in rollouts
    ]
    assert it.from_state(state[1:]) == rollouts[1:]
    assert it.from_state([]) == []


def test_each_process_resumes_its_share_of_the_state(model, accelerator, monkeypatch) -> None:
    it = sampler(model, accelerator)
    rollouts, _ = it.draw(0)
    monkeypatch.setattr("policy_gradients.sampler.gather", lambda items, _: [*items, *items])
    assert [one["number"] for one in it.to_state(rollouts)] == [0, 1, 2, 3, 0, 1, 2, 3]
    monkeypatch.setattr("policy_gradients.sampler.local_shard", lambda items, _: items[1::2])
    state = [{"number": one.number} | vars(one.sampled) for one in rollouts]
    assert it.from_state(state) == rollouts[1::2]
    mine, following = it.draw(0)
    assert ([one.number for one in mine], following) == ([1, 3], 4)


def test_the_error_of_resampling_says_what_was_drawn(model, accelerator, monkeypatch) -> None:
    """All right, all wrong, or some of each; how many groups were drawn."""
    for verdicts, said in (((1.0,), "100% are all right, 0% all wrong"), ((0.0,), "0% are all right, 100% all wrong")):
        it = sampler(model, accelerator, resample_rounds=1)
        monkeypatch.setattr(it.reward, "of_text", lambda *_, v=verdicts: {"exact": v[0], "format": 1.0, "partial": 0.0})
        with pytest.raises(UserError, match=f"none of 8 groups has both right and wrong completions .{said}"):
            it.draw(0, any_mixed_yet=False)


def tokens_of(rollouts: list[Rollout]) -> int:
    return sum(len(tokens) for rollout in rollouts for tokens in rollout.sampled.tokens)


def test_tokens_of_greedy_completions_are_sampled_too(model, accelerator) -> None:
    """Of each of four prompts."""
    batch = sampler(model, accelerator, algorithm="remax").next_batch()
    greedy = [rollout.greedy for rollout in batch.rollouts if rollout.greedy]
    assert len(greedy) == 4
    assert batch.sampled_tokens == tokens_of(batch.rollouts) + tokens_of(greedy)


def test_a_resumed_sampler_goes_on_in_the_stream(model, accelerator) -> None:
    """The next problem, whether any group was mixed, and the batches that wait: here two, with staleness 2."""
    it = sampler(model, accelerator, staleness=2)
    first = it.next_batch()
    waiting = [sampled for rollouts in it.waiting for sampled in rollouts]
    assert first.sampled_tokens == tokens_of([*first.rollouts, *waiting]), "also of the batches that wait"
    assert [one.number for one in first.rollouts] == [0, 1, 2, 3]
    state = it.state()
    assert state == {
        "step": 1,
        "number": 12,
        "drawn": 0,
        "tokens": 0,
        "any_contrast": it.any_mixed,
        "waiting": [it.to_state(rollouts) for rollouts in it.waiting],
    }
    assert [[one["number"] for one in batch] for batch in state["waiting"]] == [[4, 5, 6, 7], [8, 9, 10, 11]]
    again = sampler(model, accelerator, staleness=2)
    again.load_state(state)
    for age in (1, 2, 2):  # batches 0 to 2 are of the first policy
        batch, other = again.next_batch(), it.next_batch()
        assert batch.rollouts == other.rollouts
        assert (batch.age, batch.drawn, batch.sampled_tokens) == (age, 4, other.sampled_tokens)
    assert again.next_problem == it.next_problem == 24
    newest = it.next_batch()
    assert newest.sampled_tokens == tokens_of(it.waiting[-1]), "what it has taken is of an earlier step"
    again.load_state({"any_contrast": True})
    assert (again.next_problem, again.any_mixed, again.waiting) == (0, True, [])
    again.load_state({})
    assert (again.next_problem, again.any_mixed, again.waiting) == (0, False, [])


def test_one_mixed_group_in_any_batch_is_enough(model, accelerator, monkeypatch) -> None:
    """Problem 6, of the second batch: known from then on, over all processes."""
    monkeypatch.setattr(Rollout, "is_mixed", property(lambda rollout: rollout.number == 6))
    it = sampler(model, accelerator)
    found = []
    for _ in range(3):
        it.next_batch()
        found.append(it.any_mixed)
    assert found == [False, True, True]
    monkeypatch.setattr("policy_gradients.sampler.all_reduce_sum", lambda numbers, _: [it + 1 for it in numbers])
    elsewhere = sampler(model, accelerator)
    elsewhere.next_batch()
    assert elsewhere.any_mixed, "another process has seen one"
