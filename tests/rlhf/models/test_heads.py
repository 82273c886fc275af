"""Models with heads: our scores against transformers' own on padded rows."""

import hashlib

import pytest
import torch
from tiny_models import tiny_model
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from rlhf.errors import UserError
from rlhf.groups import Group, micro_batches
from rlhf.models.heads import (
    HeadScorer,
    load_trained,
    load_with_head,
    new_weights,
    own_positions,
    read,
    takes_shared_rows,
)
from rlhf.models.lora import Lora
from rlhf.models.policy import EMBEDDED_JUDGE, load_tokenizer
from rlhf.models.reward_model import RewardModel

CPU, ALL = torch.device("cpu"), 10**6


def tokens(count: int, salt: int) -> list[int]:
    return [(17 * i * i + 31 * salt + 5 * i) % 90 + 5 for i in range(count)]


# Unequal prompts, one-token prompts and completions, duplicates, many completions.
GROUPS = [
    Group(
        tokens(7, 1),
        [tokens(5, 2), tokens(1, 3), tokens(9, 4), tokens(1, 2)],
        [[True] * 5, [True], [False] * 8 + [True], [True]],
    ),
    Group(tokens(1, 5), [tokens(3, 6), tokens(1, 7)], [[True] * 3, [True]]),
    Group(tokens(12, 8), [tokens(2, 9)], [[False, True]]),
]
LAYOUTS = {
    "shared": {"token_budget": ALL},
    "padded": {"token_budget": ALL, "shared_prefix": False},
    "split": {"token_budget": 16},
    "packed": {"token_budget": ALL, "pack_to": 64},
    "packed_padded": {"token_budget": ALL, "pack_to": 30, "shared_prefix": False},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_own_positions(layout: str) -> None:
    """In every layout, the flattened rows hold each completion's tokens where `own_positions` says."""
    completions = [c for group in GROUPS for c in group.completions]
    seen = 0
    for rows in micro_batches(GROUPS, **LAYOUTS[layout]):
        position, size = own_positions(rows)
        flat = rows.input_ids.flatten()
        for i, sequence in enumerate(rows.index.tolist()):
            assert flat[position[i, : size[i]]].tolist() == completions[sequence]
            assert (position[i, size[i] :] == position[i, size[i] - 1]).all()
            seen += 1
    assert seen == len(completions)


@pytest.fixture(scope="module", params=["qwen3", "llama", "olmo2"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / request.param
    model = tiny_model(request.param, vocabulary=120)
    model.config.eos_token_id = 1
    model.save_pretrained(path)
    load_tokenizer("embedded").save_pretrained(path)
    return path


@pytest.mark.parametrize("classes", [(), ("wrong", "neutral", "right")])
def test_scores_are_those_of_plain_transformers(folder, tmp_path, classes) -> None:
    """Saved and loaded by Auto classes, on right-padded rows: the same number at the last token, or classes at each."""
    if classes and folder.name == "olmo2":
        with pytest.raises(UserError, match="no class of that kind"):
            load_with_head(str(folder), classes=classes)
        return
    torch.manual_seed(0)
    model, tokenizer = load_with_head(str(folder), classes=classes)
    torch.nn.init.normal_(model.score.weight, std=0.3)
    assert takes_shared_rows(model)
    if classes:  # as training does
        model.config.update({"step_separator": "\n", "step_judged_at": "last"})
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    auto = AutoModelForTokenClassification if classes else AutoModelForSequenceClassification
    plain = auto.from_pretrained(tmp_path).eval()
    rows = [[*group.prompt, *completion] for group in GROUPS for completion in group.completions]
    batch = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        theirs = plain(**batch).logits
    for name in ("model we trained", "model we loaded"):
        loaded = model if name == "model we trained" else load_trained(str(tmp_path))[0]
        for shared in (True, False):
            found = read(HeadScorer(loaded), GROUPS, token_budget=40, shared_prefix=shared, device=CPU)
            for i, (row, (counted, last)) in enumerate(zip(rows, found, strict=True)):
                expected = theirs[i, len(row) - 1] if classes else theirs[i]
                torch.testing.assert_close(last, expected, atol=1e-4, rtol=1e-4)
                assert len(counted) == sum([c for g in GROUPS for c in g.loss_mask][i])
    if classes:
        assert plain.config.id2label == {0: "wrong", 1: "neutral", 2: "right"}


@pytest.mark.parametrize("pad", ["eos", None])
def test_pad_is_never_the_end_token(folder, tmp_path, pad) -> None:
    """With pad == eos transformers would read the score one token early. Another padding token is chosen and saved."""
    tokenizer = load_tokenizer("embedded")
    tokenizer.pad_token = tokenizer.eos_token if pad else None
    model = tiny_model("qwen3", vocabulary=120)
    model.config.eos_token_id = 1
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, ours = load_with_head(str(tmp_path))
    assert ours.pad_token_id not in (None, ours.eos_token_id)
    assert loaded.config.pad_token_id == ours.pad_token_id
    end = ours.eos_token_id
    rows = [[10, 11, 12, end], [10, end]]
    batch = ours.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        theirs = loaded(**batch).logits[:, 0]
    found = read(
        HeadScorer(loaded), [Group([10], [[11, 12, end], [end]])], token_budget=ALL, shared_prefix=True, device=CPU
    )
    torch.testing.assert_close(torch.stack([last[0] for _, last in found]), theirs, atol=1e-5, rtol=1e-4)


def test_the_embedded_judge() -> None:
    """The weights that PROVENANCE.md tells of. As a process model it finds a mistake; an outcome model that starts from
    it takes its layers, and leaves its head and what it says of steps behind."""
    written = (EMBEDDED_JUDGE.parent / "PROVENANCE.md").read_text()
    assert hashlib.sha256((EMBEDDED_JUDGE / "model.safetensors").read_bytes()).hexdigest() in written
    steps = ("2*4=8\n7+8\n7+8=15", "2*4=9\n7+9\n7+9=16")
    answers = [f"<think>{own}</think><answer>{own[-2:]}</answer>" for own in steps]
    asked = [{"role": "user", "content": "Calculate step by step: 7+2*4"}]
    ((right, wrong),) = RewardModel(["embedded-judge"]).score([(asked, answers)])
    assert right > 0.8
    assert wrong < 0.2
    started, _ = load_with_head("embedded-judge", extra_layers=1)
    assert started.score.weight.shape[0] == 1
    assert not {"step_separator", "step_judged_at", "reward_statistics"} & set(started.config.to_dict())
    judge = load_trained("embedded-judge")[0].base_model.state_dict()
    assert all(torch.equal(started.base_model.state_dict()[name], value) for name, value in judge.items())


def test_a_policy_is_no_reward_model() -> None:
    with pytest.raises(UserError, match="no reward model but a Qwen3ForCausalLM"):
        load_trained("embedded")


def test_lora_leaves_the_head_whole(folder) -> None:
    model, _ = load_with_head(str(folder), lora=Lora(2))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "score.weight" in trained
    assert all("lora" in name or name == "score.weight" for name in trained)


def test_layers_on_top_change_nothing_until_they_learn(folder, tmp_path) -> None:
    """The scores before and after adding them, and in plain transformers; then all that is new gets a gradient."""
    torch.manual_seed(0)
    before, _ = load_with_head(str(folder))
    torch.manual_seed(0)
    model, _ = load_with_head(str(folder), extra_layers=2)
    assert model.config.num_hidden_layers == before.config.num_hidden_layers + 2

    def scores(some) -> torch.Tensor:
        found = read(HeadScorer(some), GROUPS, token_budget=40, shared_prefix=True, device=CPU)
        return torch.stack([last[0] for _, last in found])

    torch.testing.assert_close(scores(model), scores(before), atol=1e-5, rtol=1e-4)
    for p in new_weights(model, 2):
        torch.nn.init.normal_(p, std=0.1)  # as if they had learned something
    assert not torch.allclose(scores(model), scores(before), atol=1e-2)
    model.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(scores(plain), scores(model), atol=1e-5, rtol=1e-4)
    (rows,) = micro_batches(GROUPS, token_budget=ALL)
    HeadScorer(model)(rows).final.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in new_weights(model, 2))
    new = [model.score, *model.model.layers[-2:]]
    assert {id(p) for p in new_weights(model, 2)} == {id(p) for module in new for p in module.parameters()}
    assert len(new_weights(before, 0)) == 1


def test_a_reward_model_of_another_kind_can_be_gone_on_from(folder, tmp_path) -> None:
    """Its backbone is kept, its head is left behind."""
    if folder.name == "olmo2":
        pytest.skip("transformers has no token classification for it")
    steps, tokenizer = load_with_head(str(folder), classes=("wrong", "neutral", "right"))
    torch.nn.init.normal_(steps.model.norm.weight)
    steps.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_with_head(str(tmp_path))
    assert torch.equal(model.model.norm.weight, steps.model.norm.weight)
    assert model.score.weight.shape[0] == 1
    assert model.config.num_labels == 1


def test_heads_are_fp32_under_autocast(folder) -> None:
    """Two numbers that bf16 cannot tell apart stay two numbers."""
    model, _ = load_with_head(str(folder))
    with torch.autocast("cpu", torch.bfloat16):
        (rows,) = micro_batches(GROUPS[:1], token_budget=ALL)
        assert HeadScorer(model)(rows).logits.dtype == torch.float32
