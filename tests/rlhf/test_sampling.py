"""The sampler against the scorer, against the exact distribution, and against itself in other company."""

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GenerationConfig,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from rlhf import sampling
from rlhf.decoding import decode_shared
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.logprobs import Scorer, score
from rlhf.sampling import SampledCompletions, SoftmaxChooser, sample, shares_prompts

CPU = torch.device("cpu")
PROMPTS = [[5, 6, 7, 8, 9, 10], [11], [12, 13, 14], [5, 6, 7, 8, 9, 10], [20, 21, 22, 23], [30, 31]]
KEYS = [(3, i) for i in range(len(PROMPTS))]
ENDS = [1, 40, 41, 42, 43]


def draw(model: nn.Module, prompts=PROMPTS, keys=KEYS, **changes) -> list[SampledCompletions]:
    options = {"completions": 5, "max_new_tokens": 12, "end_tokens": ENDS, **changes}
    return sample(model, prompts, keys=keys, **options)


def next_token_logp(model: nn.Module, prompt: list[int], temperature: float = 1.0) -> Tensor:
    with torch.no_grad():
        return (model(input_ids=torch.tensor([prompt])).logits[0, -1] / temperature).log_softmax(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.5])
def test_the_samplers_logp_is_the_scorers(model: nn.Module, temperature: float) -> None:
    """Prefilled once a prompt, keys shared, completions leaving the batch: and still the numbers of training."""
    sampled = draw(model, temperature=temperature)
    groups = [Group(prompt, one.tokens) for prompt, one in zip(PROMPTS, sampled, strict=True)]
    scores = score(Scorer(model), groups, token_budget=10**6, device=CPU, temperature=temperature)
    logp = [logp for one in sampled for logp in one.logp]
    assert len({len(row) for row in logp}) > 3, "completions of many lengths, or this tests little"
    assert scores.mask.sum(1).tolist() == [len(row) for row in logp]
    for ours, scored in zip(logp, scores.logp, strict=True):
        assert ours == pytest.approx(scored[: len(ours)].tolist(), abs=1e-4)


def test_tokens_depend_on_the_key_alone(model: nn.Module) -> None:
    """Not on the batch size, the order, nor on the other prompts."""
    together = draw(model)
    assert draw(model) == together
    tokens = [one.tokens for one in together]
    assert [one.tokens for one in draw(model, batch=1)] == tokens
    assert [one.tokens for one in draw(model, batch=10)] == tokens
    assert [draw(model, [p], [k])[0].tokens for p, k in zip(PROMPTS, KEYS, strict=True)] == tokens
    assert [one.tokens for one in draw(model, PROMPTS[::-1], KEYS[::-1])] == tokens[::-1]


def test_no_prompts(qwen3: nn.Module) -> None:
    """As in a process that has no share of a small evaluation."""
    assert draw(qwen3, [], []) == []


def test_other_keys_give_other_tokens(qwen3: nn.Module) -> None:
    """The same prompt stands in PROMPTS twice, with two keys. Siblings differ too."""
    sampled = draw(qwen3)
    assert sampled[0].tokens != sampled[3].tokens
    assert draw(qwen3, keys=[(4, i) for i in range(6)])[0].tokens != sampled[0].tokens
    assert len({tuple(tokens) for tokens in sampled[0].tokens}) == 5
    same = draw(qwen3, keys=[(3, 0)] * 6)
    assert same[0].tokens == same[3].tokens == sampled[0].tokens


def test_end_tokens_are_kept_and_end(model: nn.Module) -> None:
    """A completion's only end token is its last; one without is cut at max_new_tokens and said to be."""
    sampled = draw(model)
    truncated = [cut for one in sampled for cut in one.truncated]
    assert 0 < sum(truncated) < len(truncated)
    for one in sampled:
        for tokens, logp, cut in zip(one.tokens, one.logp, one.truncated, strict=True):
            assert len(tokens) == len(logp)
            assert cut == (tokens[-1] not in ENDS)
            assert not set(tokens[:-1]) & set(ENDS)
            assert len(tokens) == 12 if cut else len(tokens) <= 12


def test_an_end_at_the_very_last_token_is_no_truncation(small_vocabulary: nn.Module) -> None:
    everything_ends = draw(small_vocabulary, [[0, 1]], [(0,)], end_tokens=range(6), max_new_tokens=1)[0]
    assert everything_ends.truncated == [False] * 5
    nothing_ends = draw(small_vocabulary, [[0, 1]], [(0,)], end_tokens=[], max_new_tokens=3)[0]
    assert nothing_ends.truncated == [True] * 5
    assert {len(tokens) for tokens in nothing_ends.tokens} == {3}


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}])
def test_greedy(model: nn.Module, settings: dict[str, float]) -> None:
    """Temperature 0, and what comes to the same, takes the most likely token after each prefix.

    At temperature 0 the log-probability is the policy's own; where all others are cut off, it is ln 1.
    """
    (sampled,) = draw(model, PROMPTS[:1], KEYS[:1], end_tokens=[], completions=2, max_new_tokens=6, **settings)
    prefix = list(PROMPTS[0])
    for token, logp in zip(sampled.tokens[0], sampled.logp[0], strict=True):
        own = next_token_logp(model, prefix)
        assert token == own.argmax()
        assert logp == pytest.approx(own.max().item() if settings == {"temperature": 0.0} else 0.0, abs=1e-4)
        prefix.append(token)
    assert sampled.tokens[0] == sampled.tokens[1]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_frequencies_are_the_models_probabilities(small_vocabulary: nn.Module, temperature: float) -> None:
    """All 6 * 6 pairs of two tokens, 6000 draws, against pi(a) * pi(b | a): also that draws within a completion are
    independent. The chance that right code fails is 1e-3 over all seeds, and 0 at this one."""
    prompt, n = [0, 3, 2], 6000
    first = next_token_logp(small_vocabulary, prompt, temperature)
    joint = [first[a] + next_token_logp(small_vocabulary, [*prompt, a], temperature) for a in range(6)]
    expected = torch.cat(joint).exp().double()
    assert expected.max() > 3 * expected.min(), "a distribution that is far from uniform"
    (sampled,) = draw(
        small_vocabulary, [prompt], [(0,)], completions=n, max_new_tokens=2, end_tokens=[], temperature=temperature
    )
    counts = torch.zeros(36)
    for a, b in sampled.tokens:
        counts[6 * a + b] += 1
    often = n * expected > 5  # the rest is too rare for a chi-square
    assert often.sum() > 20
    assert counts[~often].sum() < 60
    expected = expected[often] / expected[often].sum() * counts[often].sum()
    assert chisquare(counts[often].numpy(), expected.numpy()).pvalue > 1e-3


P = torch.tensor([[0.05, 0.5, 0.15, 0.3]])


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0, 1, 2, 3]),
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"top_p": 0.7}, [1, 3]),
        ({"top_p": 0.81}, [1, 2, 3]),
        ({"top_p": 0.2}, [1]),
        ({"top_k": 3, "top_p": 0.6}, [1, 3]),
    ],
)
def test_top_k_and_top_p_renormalize(settings: dict[str, float], kept: list[int]) -> None:
    """p = (.05, .5, .15, .3). top_p keeps the smallest set of likeliest tokens that reaches it: 0.7 needs .5 + .3.
    top_k 3 leaves (.5, .15, .3) / .95, of which .5 + .3 = .84 reaches 0.6. Log-probabilities are of what is left."""
    uniform = (torch.arange(1000) + 0.5) / 1000
    choose = SoftmaxChooser(temperature=1.0, **{"top_k": 0, "top_p": 1.0, **settings})
    token, logp = choose(P.log().repeat(1000, 1), uniform)
    assert sorted(set(token.tolist())) == kept
    mass = P[0, kept].sum()
    torch.testing.assert_close(logp, (P[0, token] / mass).log())
    shares = torch.bincount(token, minlength=4)[kept] / 1000
    torch.testing.assert_close(shares, P[0, kept] / mass, atol=2e-3, rtol=0)


@pytest.mark.parametrize("shared", [True, False])
def test_choose_replaces_the_distribution(model: nn.Module, monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    """Called once a step with one uniform number for each completion that goes on; its tokens and logp are kept."""
    monkeypatch.setattr(sampling, "shares_prompts", lambda _: shared)
    calls: list[int] = []

    def count_up(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(uniform))
        return torch.full((len(logits),), 10 + len(calls)), torch.full((len(logits),), -0.5 * len(calls))

    (sampled,) = sample(
        model, [[1, 2, 3]], completions=2, max_new_tokens=5, end_tokens=[13], keys=[(0,)], choose=count_up
    )
    assert sampled == SampledCompletions([[11, 12, 13]] * 2, [[-0.5, -1.0, -1.5]] * 2, [False, False])
    assert calls[:3] == [2, 2, 2]


@pytest.mark.parametrize("settings", [{}, {"top_k": 2}, {"top_p": 0.7}])
def test_the_ends_of_the_unit_interval(settings: dict[str, float]) -> None:
    """A double just below 1 is 1.0 in fp32: it must not choose a token that was cut off, whose logp is -inf."""
    p = torch.tensor([[0.0, 0.5, 0.3, 0.2, 0.0]])
    uniform = torch.tensor([0.0, 1 - 2**-24, 1.0])
    choose = SoftmaxChooser(temperature=1.0, **{"top_k": 0, "top_p": 1.0, **settings})
    token, logp = choose(p.log().clamp(min=-200).repeat(3, 1), uniform)
    assert torch.isfinite(logp).all()
    assert token.tolist() == ([1, 3, 3] if not settings else [1, 2, 2])


@pytest.mark.parametrize("v", [256, 257, 1000, 1024])
def test_a_large_vocabulary_is_searched_in_blocks(v: int) -> None:
    """As if the running sum of all tokens were taken exactly, but where the uniform number is at the edge of a token.
    The first and last block, and tokens beside drawn ones, have no probability: they are never drawn."""
    logits = 3 * torch.randn(5000, v, generator=torch.Generator().manual_seed(v))
    logits[:, ::5] = logits[:, :10] = logits[:, -10:] = -torch.inf
    uniform = torch.linspace(0, 1, 5000)
    p = logits.softmax(-1)
    exact = p.double().cumsum(-1)
    wanted = uniform.clamp(max=1 - 2**-24)[:, None].double() * exact[:, -1:]
    token = sampling.draw(p, uniform)
    assert p[torch.arange(5000), token].min() > 0
    above = exact.gather(-1, token[:, None]) - wanted
    below = wanted - (exact.gather(-1, token[:, None]) - p.gather(-1, token[:, None]))
    assert above.min() > -1e-6
    assert below.min() > -1e-6
    assert (token == torch.searchsorted(exact, wanted, right=True).squeeze(-1)).float().mean() > 0.995


def test_the_longest_prompt_of_a_batch_says_how_many_are_sampled_from_together(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if there were room for 12 tokens of prompts; what is sampled stays the same."""
    sizes: list[int] = []

    def counted(model: nn.Module, decoder: object, prompts: list[list[int]], *rest: object):
        sizes.append(len(prompts))
        return decode_shared(model, decoder, prompts, *rest)

    wanted = [one.tokens for one in draw(model)]
    monkeypatch.setattr(sampling, "together_with", lambda _, *, prompt, completions, length: max(1, 12 // prompt))
    monkeypatch.setattr(sampling, "decode_shared", counted)
    monkeypatch.setattr(sampling, "shares_prompts", lambda _: True)
    assert [one.tokens for one in draw(model)] == wanted
    assert sizes == [2, 3, 1]  # of 6 and 6 tokens; 4, 3 and 2; 1


def test_under_bf16_autocast(model: nn.Module) -> None:
    """The sampler and the scorer round differently in bf16; they still agree to a few hundredths of a nat."""
    with torch.autocast("cpu", torch.bfloat16):
        sampled = draw(model)
        groups = [Group(prompt, one.tokens) for prompt, one in zip(PROMPTS, sampled, strict=True)]
        scores = score(Scorer(model), groups, token_budget=10**6, device=CPU)
    gaps = [
        abs(ours - float(scored))
        for one_logp, row in zip((logp for one in sampled for logp in one.logp), scores.logp, strict=True)
        for ours, scored in zip(one_logp, row, strict=False)
    ]
    assert max(gaps) < 0.1
    assert sum(gaps) / len(gaps) < 0.02


def test_the_model_is_left_as_it_was(qwen3: nn.Module) -> None:
    attention = qwen3.config._attn_implementation
    qwen3.train()
    try:
        draw(qwen3, max_new_tokens=3)
        assert qwen3.training
    finally:
        qwen3.eval()
    assert qwen3.config._attn_implementation == attention


def test_prompts_that_leave_no_room_are_refused(qwen3: nn.Module) -> None:
    """The model has 256 positions: the longest prompt with all new tokens must fit, whatever is sampled."""
    draw(qwen3, [[1], [2] * 250], KEYS[:2], max_new_tokens=6)
    with pytest.raises(UserError, match=r"a prompt of 250 tokens with max_new_tokens 7 takes 257 tokens.*reads 256"):
        draw(qwen3, [[1], [2] * 250], KEYS[:2], max_new_tokens=7)


# -------------------------------------------------------------------- architectures that the prefix cache cannot serve

SIZES = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "initializer_range": 0.1}
IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
LONGEST = 6 + 12  # of PROMPTS, and what `draw` adds


def other_model(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}
        model = {
            "mamba": lambda: MambaForCausalLM(MambaConfig(**SIZES, **IDS, state_size=8)),
            "bloom": lambda: BloomForCausalLM(BloomConfig(**SIZES, **IDS, n_head=4)),
            "window": lambda: MistralForCausalLM(MistralConfig(**SIZES, **IDS, **heads, sliding_window=10)),
            "wide": lambda: MistralForCausalLM(MistralConfig(**SIZES, **IDS, **heads, sliding_window=LONGEST)),
        }[name]()
        nn.init.normal_(model.get_output_embeddings().weight, std=0.1)
    return model.eval()


@pytest.fixture(scope="module", params=["mamba", "bloom", "window"])
def other(request: pytest.FixtureRequest) -> nn.Module:
    return other_model(request.param)


def test_what_the_prefix_cache_serves_is_found_out(model: nn.Module) -> None:
    """State-space layers have no keys, and ALiBi adds to the scores; a window does nothing within its length."""
    assert shares_prompts(model)
    assert not shares_prompts(other_model("mamba"))
    assert not shares_prompts(other_model("bloom"))
    assert shares_prompts(other_model("window"))


def test_generate_samples_the_same(model: nn.Module, monkeypatch) -> None:
    """Where both can, the two ways give the same tokens and log-probabilities."""
    settings = {"temperature": 0.8, "top_k": 30, "top_p": 0.9}
    expected = draw(model, **settings)
    monkeypatch.setattr(sampling, "shares_prompts", lambda _: False)
    apart = draw(model, **settings)
    assert [one.tokens for one in apart] == [one.tokens for one in expected]
    assert [one.truncated for one in apart] == [one.truncated for one in expected]
    for ours, theirs in zip(apart, expected, strict=True):
        for row, other_row in zip(ours.logp, theirs.logp, strict=True):
            assert row == pytest.approx(other_row, abs=1e-4)


def test_others_sample_what_they_score(other: nn.Module) -> None:
    """The contract: log-probabilities of plain rows, completions of many lengths, cut behind their end token."""
    sampled = draw(other)
    groups = [Group(prompt, one.tokens) for prompt, one in zip(PROMPTS, sampled, strict=True)]
    scores = score(Scorer(other), groups, token_budget=10**6, device=CPU, shared_prefix=False)
    logp = [logp for one in sampled for logp in one.logp]
    assert len({len(row) for row in logp}) > 3
    for ours, scored in zip(logp, scores.logp, strict=True):
        assert ours == pytest.approx(scored[: len(ours)].tolist(), abs=1e-3)
    for one in sampled:
        for tokens, cut in zip(one.tokens, one.truncated, strict=True):
            assert cut == (tokens[-1] not in ENDS)
            assert not set(tokens[:-1]) & set(ENDS)
            assert len(tokens) == 12 if cut else len(tokens) <= 12


def test_others_depend_on_the_key_alone(other: nn.Module) -> None:
    tokens = [one.tokens for one in draw(other)]
    assert [one.tokens for one in draw(other, batch=1)] == tokens
    assert [one.tokens for one in draw(other, PROMPTS[::-1], KEYS[::-1])] == tokens[::-1]
    assert tokens[0] != tokens[3], "one prompt, two keys"


def test_others_greedy_and_without_end_tokens(other: nn.Module) -> None:
    """The model's own generation settings are no part of the policy: not its end tokens, not its penalties."""
    settings = GenerationConfig(eos_token_id=list(range(100)), repetition_penalty=5.0, min_new_tokens=3)
    before, other.generation_config = other.generation_config, settings
    try:
        (sampled,) = draw(other, PROMPTS[:1], KEYS[:1], end_tokens=[], completions=1, temperature=0.0)
        assert other.generation_config is settings
    finally:
        other.generation_config = before
    assert sampled.truncated == [True]
    prefix = list(PROMPTS[0])
    for token, logp in zip(sampled.tokens[0], sampled.logp[0], strict=True):
        own = next_token_logp(other, prefix)
        assert token == own.argmax()
        assert logp == pytest.approx(own.max().item(), abs=1e-3)
        prefix.append(token)


def test_a_window_is_kept_only_where_it_is_reached(monkeypatch) -> None:
    """Texts of 18 tokens at most: a window of 18 is none, so `generate` is not asked; with one token more it is."""
    wide = other_model("wide")
    assert shares_prompts(wide)
    monkeypatch.setattr(type(wide), "generate", lambda *_args, **_kwargs: pytest.fail("asked"))
    draw(wide)
    with pytest.raises(pytest.fail.Exception, match="asked"):
        draw(wide, max_new_tokens=13)
