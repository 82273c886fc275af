"""Rows, micro-batches and scores, against a plain forward pass of transformers over each completion alone."""

import itertools
import math

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor, nn
from transformers import BloomConfig, BloomForCausalLM, Qwen3ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rlhf.groups import Group, micro_batches, whole_micro_batches
from rlhf.logprobs import Scorer, score
from rlhf.models.architecture import takes_shared_rows
from rlhf.models.recomputing import checkpoint_activations
from rlhf.models.unpadded import goes_unpadded

CPU = torch.device("cpu")
ALL = 10**6  # a token budget that everything fits in


def tokens(count: int, salt: int) -> list[int]:
    return [(17 * i * i + 31 * salt + 5 * i) % 97 for i in range(count)]


# Unequal prompts, a one-token prompt, one-token completions, duplicates, a lone completion, uneven numbers of them.
GROUPS = [
    Group(tokens(7, 1), [tokens(5, 2), tokens(1, 3), tokens(9, 4), tokens(5, 2)]),
    Group(tokens(1, 5), [tokens(3, 6), tokens(1, 7)]),
    Group(tokens(12, 8), [tokens(2, 9)]),
    Group(tokens(7, 1), [tokens(4, 10), tokens(4, 11), tokens(1, 12), tokens(6, 13), tokens(2, 14)]),
]
COMPLETIONS = [(group.prompt, completion) for group in GROUPS for completion in group.completions]


def oracle(model: nn.Module, prompt, completion, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """log softmax(logits / T) of each token of the completion, and the entropy, from one unpadded sequence."""
    logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1] / temperature
    logp = logits.log_softmax(-1)
    return logp.gather(-1, torch.tensor(completion)[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def gradients(model: nn.Module, batches, temperature: float = 1.0) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities (n, t) in the groups' order, and the gradient of their sum, each token weighed differently."""
    logp = torch.zeros(len(COMPLETIONS), 9)
    model.zero_grad()
    for rows in batches:
        scores = Scorer(model)(rows, temperature)
        t = scores.logp.shape[1]
        weight = (1 + rows.index[:, None] + 0.3 * torch.arange(t)).sin()
        (scores.logp * weight).sum().backward()
        logp[rows.index, :t] = scores.logp.detach()
    return logp, [parameter.grad.clone() for parameter in model.parameters()]


def of_oracle(model: nn.Module) -> tuple[Tensor, list[Tensor]]:
    logp = torch.zeros(len(COMPLETIONS), 9)
    model.zero_grad()
    for i, (prompt, completion) in enumerate(COMPLETIONS):
        alone, _ = oracle(model, prompt, completion)
        (alone * (1 + i + 0.3 * torch.arange(len(completion))).sin()).sum().backward()
        logp[i, : len(completion)] = alone.detach()
    return logp, [parameter.grad.clone() for parameter in model.parameters()]


LAYOUTS = {
    "shared": {"token_budget": ALL},
    "padded": {"token_budget": ALL, "shared_prefix": False},
    "padded_one_by_one": {"token_budget": 1, "shared_prefix": False},
    "split": {"token_budget": 16},
    "one_by_one": {"token_budget": 1},
    "packed": {"token_budget": ALL, "pack_to": 64},
    "packed_tight": {"token_budget": 64, "pack_to": 30},
    "packed_padded": {"token_budget": ALL, "pack_to": 30, "shared_prefix": False},
}


@pytest.fixture(scope="module")
def truth(model: nn.Module) -> tuple[Tensor, list[Tensor]]:
    return of_oracle(model)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_models_own_numbers(model: nn.Module, truth, layout: str) -> None:
    """Log-probabilities and the gradient of every weight, fp32."""
    logp, gradient = gradients(model, micro_batches(GROUPS, **LAYOUTS[layout]))
    torch.testing.assert_close(logp, truth[0], atol=1e-4, rtol=0)
    for ours, exact in zip(gradient, truth[1], strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-4, rtol=1e-3)


def test_score_temperature_and_entropy(qwen3: nn.Module) -> None:
    """In the groups' order whatever the micro-batches, at the sampling temperature; zero where nothing counts."""
    groups = [*GROUPS, Group(tokens(3, 1), [tokens(4, 2)], [[True, False, False, True]])]
    scores = score(Scorer(qwen3), groups, token_budget=24, device=CPU, temperature=0.7)
    assert scores.mask.sum(1).tolist() == [5, 1, 9, 5, 3, 1, 2, 4, 4, 1, 6, 2, 2]
    assert scores.mask[-1].tolist() == [True, False, False, True, *[False] * 5]
    assert (scores.logp[~scores.mask] == 0).all()
    assert (scores.entropy[~scores.mask] == 0).all()
    for i, (prompt, completion) in enumerate([*COMPLETIONS, (groups[-1].prompt, groups[-1].completions[0])]):
        counted = scores.mask[i, : len(completion)]
        logp, entropy = oracle(qwen3, prompt, completion, temperature=0.7)
        torch.testing.assert_close(scores.logp[i, : len(completion)][counted], logp[counted], atol=1e-4, rtol=0)
        torch.testing.assert_close(scores.entropy[i, : len(completion)][counted], entropy[counted], atol=1e-4, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_counts_stay_with_their_completion(layout: str) -> None:
    """However a group is split or packed: of completion i, token i alone counts."""
    completions = [tokens(6, salt) for salt in range(6)]
    group = Group(tokens(4, 9), completions, [[j == i for j in range(6)] for i in range(6)])
    found = {}
    for rows in micro_batches([group], **LAYOUTS[layout]):
        for sequence, target, mask in zip(rows.index.tolist(), rows.labels, rows.mask, strict=True):
            found[sequence] = (target.tolist(), mask.nonzero().flatten().tolist())
    assert found == {i: (completions[i], [i]) for i in range(6)}


def test_rows_by_hand() -> None:
    """The example of the module: prompt of 4, completions of 3, 2 and 4 tokens.

    The state that predicts a completion's first token is the prompt's last, at 3; the second is predicted at the
    completion's own first token, at 4, 7 and 9.
    """
    counts = [[True] * 3, [True, False], [False, False, False, True]]
    group = Group([1, 2, 3, 4], [[5, 6, 7], [8, 9], [10, 11, 12, 13]], counts)
    (rows,) = micro_batches([group], token_budget=ALL)
    assert rows.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 4, 5, 4, 5, 6, 7]]
    assert rows.logit_index.tolist() == [[3, 4, 5, 0], [3, 7, 0, 0], [3, 9, 10, 11]]
    assert rows.labels.tolist() == [[5, 6, 7, 0], [8, 9, 0, 0], [10, 11, 12, 13]]
    assert rows.mask.int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    assert rows.index.tolist() == [0, 1, 2]
    assert rows.bounds == [[0, 4, 7, 9, 13]]
    sees = [row.nonzero().flatten().tolist() for row in rows.attention_mask[0, 0]]
    assert sees[:5] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert sees[7] == [0, 1, 2, 3, 7]
    assert sees[8] == [0, 1, 2, 3, 7, 8]
    assert sees[12] == [0, 1, 2, 3, 9, 10, 11, 12]


def test_packed_rows_by_hand() -> None:
    """Two groups in one row: positions start again, and the second group sees nothing of the first."""
    groups = [Group([1, 2], [[3], [4]]), Group([5], [[6]])]
    (rows,) = micro_batches(groups, token_budget=ALL, pack_to=6)
    assert rows.input_ids.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 2, 0, 1]]
    assert [row.nonzero().flatten().tolist() for row in rows.attention_mask[0, 0]] == [
        [0], [0, 1], [0, 1, 2], [0, 1, 3], [4], [4, 5],
    ]  # fmt: skip
    assert rows.bounds == [[0, 2, 3, 4], [4, 5, 6]]
    assert len(micro_batches(groups, token_budget=ALL, pack_to=5)[0].input_ids) == 2, "6 tokens do not fit into 5"


def test_models_that_take_no_shared_rows_get_no_packed_ones() -> None:
    """Packing asks of a model what sharing a prompt asks: a mask of its own, and positions that begin again."""
    groups = [Group([1, 2], [[3], [4, 5]]), Group([6], [[7]])]
    (rows,) = micro_batches(groups, token_budget=100, shared_prefix=False, pack_to=50)
    assert rows.attention_mask is None
    assert rows.input_ids.tolist() == [[1, 2, 4, 5], [1, 2, 3, 0], [6, 7, 0, 0]]
    assert rows.token_index.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9], "not the padding, at 7, 10 and 11"
    assert rows.bounds == [[0, 2, 4], [4, 6, 7], [7, 8, 9]]
    (rows,) = micro_batches(groups, token_budget=100, shared_prefix=True, pack_to=50)
    assert rows.input_ids.shape == (1, 7)


def test_a_completion_never_sees_its_sibling(model: nn.Module) -> None:
    """Every token of one completion changed; the other's numbers may differ by rounding alone."""
    prompt, kept = tokens(6, 1), tokens(5, 2)
    for where in (0, 1):
        rows = []
        for salt in (3, 4):
            completions = [tokens(8, salt), kept] if where else [kept, tokens(8, salt)]
            rows.append(score(Scorer(model), [Group(prompt, completions)], token_budget=ALL, device=CPU).logp)
        assert (rows[0][1 - where] - rows[1][1 - where]).abs().max() > 0.1
        torch.testing.assert_close(rows[0][where], rows[1][where], atol=1e-6, rtol=0)


def test_company_and_padding_change_nothing(model: nn.Module) -> None:
    """The same group alone, beside a much longer one (padding), and packed with it."""
    short, long = GROUPS[1], Group(tokens(40, 3), [tokens(30, 4), tokens(3, 5)])
    alone = score(Scorer(model), [short], token_budget=ALL, device=CPU).logp
    for groups, first in (([short, long], 0), ([long, short], 2)):
        together = score(Scorer(model), groups, token_budget=ALL, device=CPU).logp
        torch.testing.assert_close(together[first : first + 2, :3], alone, atol=1e-5, rtol=0)
        for rows in micro_batches(groups, token_budget=ALL, pack_to=128):
            packed = Scorer(model)(rows)
            found = [rows.index.tolist().index(first + i) for i in range(2)]
            torch.testing.assert_close(packed.logp[found, :3].detach(), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shared_prefix", [True, False])
@pytest.mark.parametrize("pack_to", [0, 30])
@pytest.mark.parametrize("budget", [1, 13, 30, 64, ALL])
def test_micro_batches_cover_everything_within_the_budget(shared_prefix: bool, pack_to: int, budget: int) -> None:
    """Every completion exactly once; padding counts; only one completion alone may be over; the longest comes first."""
    batches = micro_batches(GROUPS, token_budget=budget, shared_prefix=shared_prefix, pack_to=pack_to)
    assert sorted(i for rows in batches for i in rows.index.tolist()) == list(range(12))
    widths = [rows.input_ids.shape[1] for rows in batches]
    assert widths == sorted(widths, reverse=True)
    for rows in batches:
        assert rows.input_ids.numel() <= max(budget, pack_to) or len(rows.index) == 1
        for i, (_, completion) in enumerate(COMPLETIONS):
            for j in (rows.index == i).nonzero():
                assert rows.labels[int(j)][rows.mask[int(j)]].tolist() == list(completion)


def cost(sizes: list[int], budget: int) -> float:
    """What a cut of groups of these tokens costs: tokens with padding, and a sixteenth of the budget for each part."""
    groups = [Group([1], [[2] * (size - 1)]) for size in sizes]
    batches = micro_batches(groups, token_budget=budget)
    return sum(rows.input_ids.numel() + budget / 16 for rows in batches)


def cheapest(sizes: list[int], budget: int) -> float:
    """The same of the best of all cuts, by trying them."""
    ordered, best = sorted(sizes, reverse=True), math.inf
    for cuts in itertools.product([False, True], repeat=len(sizes) - 1):
        stops = [i + 1 for i, cut in enumerate(cuts) if cut]
        parts = [ordered[a:b] for a, b in itertools.pairwise([0, *stops, len(sizes)])]
        if all(len(part) * part[0] <= budget or len(part) == 1 for part in parts):
            best = min(best, sum(len(part) * part[0] + budget / 16 for part in parts))
    return best


@pytest.mark.parametrize("sizes", [[40, 40, 39, 12, 11, 10, 3, 2], [90, 9, 9, 9, 9, 9, 9], [25] * 9, [200, 30, 2]])
@pytest.mark.parametrize("budget", [16, 50, 100, 400])
def test_no_cut_pads_less_for_its_number_of_micro_batches(sizes: list[int], budget: int) -> None:
    assert cost(sizes, budget) == cheapest(sizes, budget)


def test_padding_is_weighed_against_another_micro_batch() -> None:
    """Budget 160, so a micro-batch counts as ten tokens: 3 tokens of padding are kept, 24 are not."""

    def shapes(*sizes: int) -> list[list[int]]:
        groups = [Group([1], [[2] * (size - 1)]) for size in sizes]
        return [list(rows.input_ids.shape) for rows in micro_batches(groups, token_budget=160)]

    assert shapes(30, 27, 30) == [[3, 30]]
    assert shapes(30, 6, 30) == [[2, 30], [1, 6]]


def test_whole_groups_stay_whole() -> None:
    """In whichever layout; numbers lead back to the groups, and rows count completions through these."""
    for shared_prefix, budget in itertools.product([True, False], [1, 20, 40, ALL]):
        parts = whole_micro_batches(GROUPS, token_budget=budget, shared_prefix=shared_prefix)
        assert sorted(i for part in parts for i in part.numbers) == [0, 1, 2, 3]
        for numbers, rows in parts:
            assert rows.input_ids.numel() <= budget or len(numbers) == 1
            assert len(rows.input_ids) == (len(numbers) if shared_prefix else len(rows.index))
            held = [completion for i in numbers for completion in GROUPS[i].completions]
            for sequence, target, mask in zip(rows.index.tolist(), rows.labels, rows.mask, strict=True):
                assert target[mask].tolist() == held[sequence]


def test_plain_causal_rows_carry_no_mask() -> None:
    """One completion a row needs no mask to build, which is what other architectures are given."""
    assert all(rows.attention_mask is None for rows in micro_batches(GROUPS, token_budget=ALL, shared_prefix=False))
    assert micro_batches(GROUPS[:1], token_budget=ALL)[0].attention_mask is not None


@pytest.mark.parametrize("group", [Group([], [[1]]), Group([1], [[2], []])])
def test_empty_prompts_and_completions_are_refused(group: Group) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        micro_batches([group], token_budget=ALL)


def test_a_micro_batch_in_which_nothing_counts(qwen3: nn.Module) -> None:
    """A conversation cut before its answer: no loss, no nan, and backward works."""
    (rows,) = micro_batches([Group([1, 2], [[3, 4]], [[False, False]])], token_budget=ALL)
    scores = Scorer(qwen3)(rows)
    qwen3.zero_grad()
    scores.logp.sum().backward()
    assert scores.logp.tolist() == [[0, 0]]
    assert not any(p.grad.any() for p in qwen3.parameters() if p.grad is not None)


def test_gradient_checkpointing_changes_nothing(model: nn.Module, truth) -> None:
    calls = []
    hook = model.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    checkpoint_activations(model)
    try:
        logp, gradient = gradients(model, micro_batches(GROUPS, token_budget=ALL))
    finally:
        model.activation_checkpointing_disable()
        model.eval()
        hook.remove()
    assert len(calls) == 2, "forward, and again in backward"
    torch.testing.assert_close(logp, truth[0], atol=1e-4, rtol=0)
    for ours, exact in zip(gradient, truth[1], strict=True):
        torch.testing.assert_close(ours, exact, atol=1e-4, rtol=1e-3)


class Deaf(Qwen3ForCausalLM):
    """A model that drops one of the arguments shared rows depend on."""

    dropped: str

    @property
    def base_model(self):
        return lambda **arguments: self.model(**{**arguments, self.dropped: None})


@pytest.mark.parametrize("dropped", ["attention_mask", "position_ids"])
def test_models_that_cannot_take_shared_rows_are_found_out(qwen3: nn.Module, dropped: str) -> None:
    deaf = Deaf(qwen3.config)
    deaf.load_state_dict(qwen3.state_dict())
    deaf.dropped = dropped
    assert not takes_shared_rows(deaf)


def test_models_that_need_padding_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose layers read which attention they take from elsewhere reads the tokens of all rows as one text."""

    def attention(module, query, key, value, attention_mask, rows=None, **options):
        mask = attention_mask if rows is None else None
        return sdpa_attention_forward(module, query, key, value, mask, **options)

    model = tiny_model("qwen3")
    (rows,) = micro_batches(GROUPS, token_budget=ALL)
    assert takes_shared_rows(model)
    assert goes_unpadded(model, rows)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "unpadded", attention)
    assert takes_shared_rows(model)
    assert not goes_unpadded(model, rows)


def test_models_that_take_shared_rows(model: nn.Module) -> None:
    was_training = model.training
    assert takes_shared_rows(model)
    assert model.training == was_training


def test_alibi_cannot_take_shared_rows() -> None:
    """BLOOM computes distances from the place in the row, whatever the position ids say."""
    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=32, n_layer=1, n_head=4, initializer_range=0.2))
    assert not takes_shared_rows(bloom.eval())
