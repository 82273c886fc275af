"""Pairs to rows and back: what the losses see is what a plain forward pass would have given."""

import pytest
import torch
from accelerate import Accelerator
from alignment_commands import pairs
from torch import nn

from direct_alignment.data import (
    Example,
    Preferences,
    class_imbalance,
    digest,
    to_examples,
    with_mismatched,
)
from direct_alignment.log_ratios import compare, count, grad_logp, lengths, score_all, sequence_logp
from direct_alignment.loss import Completions
from direct_alignment.losses import losses
from rlhf.data.preferences import parse_preference
from rlhf.groups import Group, whole_micro_batches
from rlhf.logprobs import Scorer
from rlhf.models.policy import load_tokenizer

LAYOUT = {"token_budget": 10**6, "shared_prefix": True}
ROOM = {"max_length": 100, "truncation": "keep_end"}


def examples(count: int = 7) -> list[Example]:
    """Pairs of unequal lengths; the second completion's first token does not count."""
    generator = torch.Generator().manual_seed(0)

    def tokens(low: int, high: int) -> list[int]:
        size = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(0, 100, (size,), generator=generator).tolist()

    made = []
    for i in range(count):
        completions = [tokens(2, 9), tokens(2, 9)]
        counts = [[True] * len(completions[0]), [False] + [True] * (len(completions[1]) - 1)]
        made.append(Example(Group(tokens(3, 12), completions, counts), (True, False), logp_ref=(-float(i), -2.0 * i)))
    return made


@torch.no_grad()
def by_hand(model: nn.Module, group: Group) -> list[float]:
    """One completion a row, the model's own logits."""
    sums = []
    for completion, counts in zip(group.completions, group.loss_mask, strict=True):
        row = torch.tensor([[*group.prompt, *completion]])
        logp = model(input_ids=row).logits[0].log_softmax(-1)
        at = range(len(group.prompt) - 1, row.shape[1] - 1)
        sums.append(sum(float(logp[i, t]) for i, t, c in zip(at, completion, counts, strict=True) if c))
    return sums


@pytest.mark.parametrize("shared_prefix", [True, False])
@pytest.mark.parametrize("token_budget", [1, 40, 100, 10**6])
def test_no_budget_parts_a_pair(qwen3: nn.Module, token_budget: int, shared_prefix: bool) -> None:
    made = examples()
    parts = whole_micro_batches([e.group for e in made], token_budget=token_budget, shared_prefix=shared_prefix)
    assert sorted(i for part in parts for i in part.numbers) == list(range(7))
    if token_budget == 1:
        assert len(parts) == 7
    if token_budget == 10**6:
        assert len(parts) == 1
    for part in parts:
        assert part.rows.input_ids.numel() <= token_budget or len(part.numbers) == 1
        with torch.no_grad():
            logp = sequence_logp(Scorer(qwen3)(part.rows), part.rows)
        expected = [x for i in part.numbers for x in by_hand(qwen3, made[i].group)]
        assert logp.tolist() == pytest.approx(expected, abs=1e-3)
        sizes = [float(sum(counts)) for i in part.numbers for counts in made[i].group.loss_mask]
        assert lengths(part.rows).tolist() == sizes


def test_score_all_keeps_the_order(qwen3: nn.Module) -> None:
    made = examples()
    found = score_all(Scorer(qwen3), [e.group for e in made], Accelerator(cpu=True), LAYOUT)
    for e, own in zip(made, found, strict=True):
        assert list(own) == pytest.approx(by_hand(qwen3, e.group), abs=1e-3)


@pytest.mark.parametrize("name", ["bco", "aot"])
def test_a_step_seen_whole_has_its_own_gradient(qwen3: nn.Module, name: str) -> None:
    """`grad_logp` times log-probabilities, part by part, gives the gradient of the whole step's loss."""
    made, loss, accelerator = examples(), losses[name], Accelerator(cpu=True)
    settings = {"beta": 0.5}

    def gradient(value: torch.Tensor) -> list[torch.Tensor]:
        return [
            g.clone() for g in torch.autograd.grad(value, list(qwen3.parameters()), allow_unused=True) if g is not None
        ]

    (whole,) = whole_micro_batches([e.group for e in made], **LAYOUT)
    logp = sequence_logp(Scorer(qwen3)(whole.rows), whole.rows)
    together = compare(logp, lengths(whole.rows), [made[i] for i in whole.numbers])
    expected = loss(together, **settings).sum() / count(loss, made)
    value, gradients = grad_logp(loss, settings, Scorer(qwen3), made, accelerator, LAYOUT)
    assert value == pytest.approx(float(expected.detach()), abs=1e-4)
    pieces = torch.zeros(())
    for part in whole_micro_batches([e.group for e in made], token_budget=40, shared_prefix=True):
        logp = sequence_logp(Scorer(qwen3)(part.rows), part.rows)
        pieces = pieces + (logp * torch.cat([gradients[i] for i in part.numbers])).sum()
    for a, b in zip(gradient(pieces), gradient(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------------------------------------- KTO's mismatched pairs


def test_mismatched_pairs_are_of_other_prompts() -> None:
    """Also where a prompt has several pairs in a row."""
    first, second, third = examples(3)
    twice = Example(Group(list(first.group.prompt), second.group.completions, second.group.loss_mask), (True, False))
    made = with_mismatched([first, twice, third], **ROOM)
    assert [e.mismatched.prompt for e in made] == [e.group.prompt for e in made]
    assert made[0].mismatched.completions == third.group.completions  # not the other pair of its own prompt
    assert made[1].mismatched.completions == third.group.completions
    assert made[2].mismatched.completions == first.group.completions


def test_z_of_matched_pairs_is_another(qwen3: nn.Module) -> None:
    """A policy that has moved on its own completions only: matched log-ratios are +10, mismatched ones 0. With the
    matched in their place (in whatever order: a roll changes no mean), z would be 10 and every wanted loss 1/2."""
    made = with_mismatched(examples(), **ROOM)
    scorer, accelerator = Scorer(qwen3), Accelerator(cpu=True)
    matched = score_all(scorer, [e.group for e in made], accelerator, LAYOUT)
    apart = score_all(scorer, [e.mismatched for e in made], accelerator, LAYOUT)
    assert {x for own in matched for x in own}.isdisjoint(x for own in apart for x in own)
    logp = torch.tensor([x for own in matched for x in own])
    it = Completions(
        logp=logp,
        logp_ref=logp - 10,
        length=torch.ones_like(logp),
        desirable=torch.tensor([True, False] * 7),
        s_mismatched=torch.zeros(14),
    )
    truly = losses["kto"](it, beta=0.1)[0::2]
    swapped = losses["kto"].function(it.s, it.desirable, it.s.roll(2), beta=0.1)[0::2]
    assert truly.tolist() == pytest.approx([1 - 1 / (1 + 2.718281828**-1)] * 7, abs=1e-4)
    assert swapped.tolist() == pytest.approx([0.5] * 7, abs=1e-4)


def test_the_loop_gives_kto_the_mismatched(qwen3: nn.Module) -> None:
    """`mismatched` scores prompts with completions of others, less the reference's log-probabilities of the same."""
    from dataclasses import replace

    from direct_alignment.log_ratios import mismatched

    made = [replace(e, logp_ref_mismatched=(1.0, 2.0)) for e in with_mismatched(examples(), **ROOM)]
    found = mismatched(Scorer(qwen3), made, Accelerator(cpu=True), LAYOUT)
    expected = [x for e in made for x in by_hand(qwen3, e.mismatched)]
    assert (found + torch.tensor([1.0, 2.0] * 7)).tolist() == pytest.approx(expected, abs=1e-3)


# ---------------------------------------------------------------------------------------------- data


def rows_to_examples(rows: list[dict], **changes) -> list[Example]:
    options = {"max_length": 200, "truncation": "keep_end", "system_prompt": None, "say": print, **changes}
    return to_examples(load_tokenizer("embedded"), [parse_preference(row) for row in rows], None, **options)


def test_an_example_is_chosen_then_rejected() -> None:
    tokenizer = load_tokenizer("embedded")
    (e,) = rows_to_examples(pairs(1))
    assert [tokenizer.decode(c, skip_special_tokens=True).strip() for c in e.group.completions] == [
        "SAY 0",
        "well 0, no",
    ]
    assert e.desirable == (True, False)


def test_of_many_ranked_the_ends_are_taken() -> None:
    tokenizer = load_tokenizer("embedded")
    (e,) = rows_to_examples([{"prompt": "p", "completions": ["best", "mid", "worst"]}])
    assert [tokenizer.decode(c, skip_special_tokens=True) for c in e.group.completions] == ["best", "worst"]


def test_a_system_prompt_is_for_prompts_without_one() -> None:
    own = {"prompt": [{"role": "system", "content": "Mine."}, {"role": "user", "content": "p"}]}
    rows = [{**pairs(1)[0]}, {**pairs(1)[0], **own}]
    tokenizer = load_tokenizer("embedded")
    texts = [tokenizer.decode(e.group.prompt) for e in rows_to_examples(rows, system_prompt="Shout.")]
    assert "Shout." in texts[0]
    assert "Shout." not in texts[1]
    assert "Mine." in texts[1]


def test_a_digest_tells_apart_what_is_scored_otherwise() -> None:
    """Another boundary between prompt and completion, another order, another token that counts: another cache entry."""
    yes = [[True, True], [True]]
    groups = [
        [Group([1, 2], [[3, 4], [5]], yes)],
        [Group([1, 2, 3], [[4], [5]], [[True], [True]])],
        [Group([1, 2], [[5], [3, 4]], [[True], [True, True]])],
        [Group([1, 2], [[3, 4], [5]], [[False, True], [True]])],
        [Group([1, 2], [[3, 4]], yes[:1]), Group([1, 2], [[5]], yes[1:])],
        [Group([1, 2], [[3, 4], [6]], yes)],
    ]
    assert len({digest(it) for it in groups}) == len(groups)
    assert digest(groups[0]) == digest([Group((1, 2), ((3, 4), (5,)), yes)])


def test_batches_shuffle_by_seed_and_pass_over_everything() -> None:
    made = examples(7)

    def prompts(seed: int, *steps: int) -> list[tuple[int, ...]]:
        data = Preferences(made, made, "", seed)
        return [tuple(e.group.prompt) for step in steps for e in data.batch(step, 3)]

    everything = sorted(tuple(e.group.prompt) for e in made)
    assert sorted(prompts(0, 0, 1, 2)[:7]) == everything
    assert sorted(prompts(0, 0, 1, 2, 3, 4)[7:14]) == everything
    assert prompts(0, 0, 1) == prompts(0, 0, 1)
    assert prompts(0, 0, 1) != prompts(1, 0, 1)


@pytest.mark.parametrize(
    ("labels", "up", "down", "words"),
    [
        ([True, False], 1.0, 1.0, ""),
        ([True, True, True, False], 1.0, 1.0, "desirable_weight 0.33"),
        ([True, True, True, False], 0.4, 1.0, ""),  # 3 * 0.4 / 1 = 1.2
        ([True, True], 1.0, 1.0, "the same label"),
    ],
)
def test_class_weights(labels: list[bool], up: float, down: float, words: str) -> None:
    made = [Example(Group([1], [[2]]), (label,)) for label in labels]
    said = class_imbalance(made, {"desirable_weight": up, "undesirable_weight": down})
    assert words in said
    assert bool(said) == bool(words)
