"""From readings to losses: against TRL's RewardTrainer, whatever the micro-batches, and with every mask mattering."""

import math

import pytest
import torch
from accelerate import Accelerator
from tiny_models import tiny_model

from reward_models.batches import in_order, into_micro_batches
from reward_models.config import OutcomeConfig, PreferenceConfig
from reward_models.examples import Example
from reward_models.losses import outcome_objective, preference_objective, process_objective
from reward_models.validation import measure
from rlhf.data.preferences import parse_preference
from rlhf.data.ranking_groups import to_group
from rlhf.data.rows import in_epochs
from rlhf.groups import Group, Layout
from rlhf.models.heads import HeadScorer, load_with_head, read
from rlhf.models.policy import load_tokenizer

ALL = 10**6
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model = tiny_model("qwen3", vocabulary=120)
    model.config.eos_token_id = 1
    model.save_pretrained(path)
    load_tokenizer("embedded").save_pretrained(path)
    return path


@pytest.fixture
def model(folder):
    torch.manual_seed(0)
    return load_with_head(str(folder))[0]


@pytest.fixture
def three_classes(folder):
    torch.manual_seed(0)
    return load_with_head(str(folder), classes=("wrong", "neutral", "right"))[0]


def tokens(count: int, salt: int) -> list[int]:
    return [(17 * i * i + 31 * salt + 5 * i) % 90 + 5 for i in range(count)]


def step(model, objective, examples, *, token_budget: int, shared_prefix: bool):
    """Loss and gradients of a whole step, as the loop takes it."""
    model.zero_grad()
    loss_terms, total = sum(map(objective.loss_terms, examples)), 0.0
    layout: Layout = {"token_budget": token_budget, "shared_prefix": shared_prefix}
    for batch in into_micro_batches(examples, objective, layout):
        output = in_order(HeadScorer(model)(batch.rows), batch.rows)
        loss = objective.loss(output, batch.examples).sum() / loss_terms
        loss.backward()
        total += float(loss.detach())
    return total, [p.grad.clone() for p in model.parameters()]


RANKINGS = [
    Example("a", Group(tokens(7, 1), [tokens(5, 2), tokens(2, 3)]), [], margin=0.5),
    Example("b", Group(tokens(2, 4), [tokens(3, 5), tokens(9, 6)]), [], margin=2.0),
    Example("c", Group(tokens(12, 7), [tokens(4, 8), tokens(4, 9)]), []),
]
LISTS = [*RANKINGS, Example("d", Group(tokens(3, 10), [tokens(4, 11), tokens(2, 12), tokens(6, 13)]), [])]
SOLUTIONS = [
    Example(
        "a", Group(tokens(7, 1), [tokens(5, s) for s in range(4)], [[True] * 5] * 4), [], [True, False, False, True]
    ),
    Example("b", Group(tokens(3, 1), [tokens(9, 6)], [[True] * 9]), [], [False]),
]
STEPS = [
    Example(
        "a",
        Group(
            tokens(7, 1), [tokens(5, 2), tokens(4, 3)], [[False, True, False, False, True], [False, False, False, True]]
        ),
        [],
        labels=[[1, -1], [0]],
    ),
    Example(
        "b", Group(tokens(3, 4), [tokens(6, 5)], [[False, False, True, False, True, True]]), [], labels=[[1, 0, -1]]
    ),
]
COMPARED = [example for example in SOLUTIONS if len(set(example.right)) == 2]
CASES = {
    "all pairs": (preference_objective(PreferenceConfig(centering=0.1)), [*COMPARED, RANKINGS[0]]),
    "pairs": (preference_objective(PreferenceConfig(margin_scale=1.0, centering=0.1)), RANKINGS),
    "lists": (preference_objective(PreferenceConfig()), LISTS),
    "every token": (outcome_objective(OutcomeConfig()), SOLUTIONS),
    "last token": (outcome_objective(OutcomeConfig(orm_loss="last")), SOLUTIONS),
    "steps": (process_objective(), STEPS),
}


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_and_layout_change_nothing(case, model, three_classes):
    """In one piece or cut as far as can be, shared-prefix rows or padded ones: the same loss and gradient."""
    objective, examples = CASES[case]
    model = three_classes if case == "steps" else model
    whole, gradients = step(model, objective, examples, token_budget=ALL, shared_prefix=True)
    assert whole > 0
    for token_budget in (1, 24, ALL):
        for shared_prefix in (True, False):
            loss, other = step(model, objective, examples, token_budget=token_budget, shared_prefix=shared_prefix)
            assert loss == pytest.approx(whole, abs=1e-5)
            for a, b in zip(gradients, other, strict=True):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_the_loss_without_gradient_is_the_loss(case, model, three_classes):
    """Validation computes the loss that training computes: the mean over all terms, whatever example has how many. Its
    outputs are in the order of the answers."""
    objective, examples = CASES[case]
    model = three_classes if case == "steps" else model
    found = read(HeadScorer(model), [e.group for e in examples], token_budget=30, shared_prefix=True, device=CPU)
    loss, _ = step(model, objective, examples, token_budget=ALL, shared_prefix=True)
    for token_budget in (24, ALL):
        layout: Layout = {"token_budget": token_budget, "shared_prefix": True}
        mean, outputs = measure(model, examples, objective, Accelerator(cpu=True), layout)
        assert mean == pytest.approx(loss, abs=1e-5)
        for (counted, last), (expected_counted, expected_last) in zip(outputs, found, strict=True):
            torch.testing.assert_close(counted, expected_counted, atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(last, expected_last, atol=1e-4, rtol=1e-3)


def test_only_tokens_that_count_are_judged(model):
    """A token is taken out of the mask: the loss is the mean over the others, computed one by one."""
    objective = outcome_objective(OutcomeConfig())
    counts = [[True, False, True, True, False]]
    example = Example("a", Group(tokens(4, 1), [tokens(5, 2)], counts), [], [True])
    loss, _ = step(model, objective, [example], token_budget=ALL, shared_prefix=True)
    group = Group(tokens(4, 1), [tokens(5, 2)], [[True] * 5])
    ((logits, _),) = read(HeadScorer(model), [group], token_budget=ALL, shared_prefix=True, device=CPU)
    single = torch.nn.functional.softplus(-logits[:, 0])
    assert loss == pytest.approx(float(single[[0, 2, 3]].mean()), abs=1e-5)
    assert loss != pytest.approx(float(single.mean()), abs=1e-4)


def test_all_pairs_of_a_question_are_one_unit(model):
    """Two right answers (0, 3) and two wrong ones: the mean of -log sigmoid(r_w - r_l) over four pairs, by hand."""
    (example,) = COMPARED
    assert example.pairs == [(0, 1), (0, 2), (3, 1), (3, 2)]
    objective = preference_objective(PreferenceConfig(centering=0.0))
    loss, _ = step(model, objective, [example], token_budget=ALL, shared_prefix=True)
    found = read(HeadScorer(model), [example.group], token_budget=ALL, shared_prefix=True, device=CPU)
    r = [float(last[0]) for _, last in found]
    expected = [math.log1p(math.exp(-(r[i] - r[j]))) for i in (0, 3) for j in (1, 2)]
    assert loss == pytest.approx(sum(expected) / 4, abs=1e-5)


def test_the_best_comes_first(model):
    """The gradient step raises the first answer's reward over the second's: swapped sides go the other way."""
    objective = preference_objective(PreferenceConfig(centering=0.0))
    example = RANKINGS[0]
    swapped = example.take([1, 0])

    def gap() -> float:
        found = read(HeadScorer(model), [example.group], token_budget=ALL, shared_prefix=True, device=CPU)
        return float(found[0][1] - found[1][1])

    before = gap()
    for chosen, sign in ((example, 1), (swapped, -1)):
        weights = {n: p.clone() for n, p in model.state_dict().items()}
        step(model, objective, [chosen], token_budget=ALL, shared_prefix=True)
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.01 * p.grad
        assert sign * (gap() - before) > 0
        model.load_state_dict(weights)


def test_batches_are_epochs_in_new_orders():
    order = [in_epochs(list(range(10)), seed=0, first=4 * step, count=4) for step in range(5)]
    flat = [i for part in order for i in part]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    assert in_epochs(list(range(10)), seed=0, first=8, count=4) == order[2]
    assert [i for s in range(5) for i in in_epochs(list(range(10)), seed=1, first=4 * s, count=4)] != flat


@pytest.mark.parametrize("margins", [False, True])
def test_loss_and_gradient_are_those_of_trl(folder, tmp_path, margins):
    """RewardTrainer on the same rows: the same tokens, loss and gradient of every weight."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    rows = [
        {
            "prompt": [{"role": "user", "content": f"{i}+{i}?"}],
            "chosen": [{"role": "assistant", "content": str(2 * i)}],
            "rejected": [{"role": "assistant", "content": "I do not know" * (i % 2) or "?"}],
            "margin": i / 2,
        }
        for i in range(1, 5)
    ]
    torch.manual_seed(0)
    model, tokenizer = load_with_head(str(folder))
    arguments = trl.RewardConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, center_rewards_coefficient=0.05, use_cpu=True,
        report_to="none", bf16=False, gradient_checkpointing=False, eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token, remove_unused_columns=False,
    )  # fmt: skip
    data = Dataset.from_list([row if margins else {k: v for k, v in row.items() if k != "margin"} for row in rows])
    trainer = trl.RewardTrainer(model=model, args=arguments, processing_class=tokenizer, train_dataset=data)
    theirs = next(iter(trainer.get_train_dataloader()))
    model.zero_grad()
    loss = trainer.compute_loss(model, dict(theirs))
    loss.backward()
    expected = [p.grad.clone() for p in model.parameters()]

    groups = [to_group(tokenizer, parse_preference(row), max_length=200, truncation="keep_end").group for row in rows]
    ours_rows = {tuple(g.prompt) + tuple(c) for g in groups for c in g.completions}
    their_rows = {
        tuple(r[m.bool()].tolist()) for r, m in zip(theirs["input_ids"], theirs["attention_mask"], strict=True)
    }
    assert their_rows == ours_rows
    examples = [Example("", g, [], margin=row["margin"]) for g, row in zip(groups, rows, strict=True)]
    config = PreferenceConfig(centering=0.05, margin_scale=float(margins))
    ours, gradients = step(model, preference_objective(config), examples, token_budget=ALL, shared_prefix=True)
    assert ours == pytest.approx(float(loss), abs=1e-5)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)
