"""The same step as TRL's trainers: same model, completions and rewards; loss and gradient of every weight agree.

Theirs are whole trainers, built by their own constructors, which set what their losses read (and patch the model's
head), whatever that is in their version; then their own code turns rewards into advantages and scores the old policy
and the reference. Only sampling is replaced, by completions that are given. Ours is the step of the training loop, cut
into micro-batches.

Where the two differ on purpose, the tests say by what:

- CISPO: `epsilon_high` is their cap of the weight, our cap is 1 + `clip_high`.
- KL in GRPO's loss: they weigh k3 by the ratio (`use_bias_correction_kl`), whose gradient on-policy is that of k2. Ours
  is k3 alone, as published, or k2 where the config says so; times the ratio with `kl_unbiased`.
- RLOO: they have a ratio and a clip for whole completions, we have none and refuse a second step. On-policy the
  gradients are the same; their loss is the mean of -adv, 0 by construction, ours that of -adv * logp.
- A completion that is left out (`truncated: mask`) counts in their number of sequences, not in ours.
- Equal rewards: our advantages are exactly 0, theirs are their mean's rounding error / 1e-4.
"""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor, nn

from policy_gradients.advantages import center, group_normalize, leave_one_out
from policy_gradients.algorithms.gdpo import normalize_apart
from policy_gradients.config import PolicyGradientConfig
from policy_gradients.defaults import resolve
from rlhf.aggregate import Totals
from rlhf.embedded.make import character_tokenizer
from rlhf.groups import Group, micro_batches
from rlhf.logprobs import Scorer, Scores, score
from rlhf.tensors import masked_sum

try:
    importlib.import_module("trl.trainer.grpo_trainer")
    importlib.import_module("trl.trainer.rloo_trainer")
except Exception as error:  # any kind: its imports of other packages fail in many ways
    pytest.skip(f"TRL cannot be imported (uv sync --group peers): {error!r}", allow_module_level=True)

TOKENIZER = character_tokenizer()
END = TOKENIZER.eos_token_id
PROMPTS = ["abc", "z"]  # of two lengths, so that one is padded in theirs
COMPLETIONS = [
    [[40, 41, 42, 43, END], [44, END], [45, 45, END], [50, 51, 52, 53, 54, 55, 56, 57]],  # the last one was cut
    [[61, 62, END], [63, 64, 65, 66, 67, 68, END], [70, END], [70, END]],
]
REWARD = torch.tensor([[1.0, 0.0, 0.5, 0.2], [0.0, 1.0, 1.0, 0.3]])
NEW_TOKENS, TEMPERATURE = 8, 0.8
NO_SHIFT = torch.zeros(8, NEW_TOKENS)


def policy(seed: int = 0) -> nn.Module:
    return tiny_model("qwen3", vocabulary=len(TOKENIZER), seed=seed).train()


def shift(scale: float) -> Tensor:
    """How far each token's log-probability has moved since it was sampled."""
    return scale * torch.randn(8, NEW_TOKENS, generator=torch.Generator().manual_seed(3))


# ------------------------------------------------------------------------------------------------------------- theirs


def trainer_of(kind: str, path: Path, *, reward: Tensor = REWARD, reference: nn.Module | None = None, **settings: Any):
    """A GRPOTrainer or an RLOOTrainer of the completions above; `reward` is (b, g), or (b, g, k) of k functions."""
    import trl
    from datasets import Dataset

    model = policy()
    if reference is not None:  # they load it from where the policy came from
        reference.save_pretrained(path / "reference")
        model.config._name_or_path = str(path / "reference")
    arguments = getattr(trl, f"{kind}Config")(
        output_dir=str(path), per_device_train_batch_size=8, num_generations=4, max_completion_length=NEW_TOKENS,
        temperature=TEMPERATURE, use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False, **settings,
    )  # fmt: skip
    values = reward.view(8, -1).T.tolist()
    trainer = getattr(trl, f"{kind}Trainer")(
        model=model,
        reward_funcs=[lambda own=own, **_: own for own in values],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=TOKENIZER,
    )
    completions = [completion for group in COMPLETIONS for completion in group]
    trainer._generate_single_turn = lambda *_, **__: (completions, None) if kind == "GRPO" else completions
    trainer.current_gradient_accumulation_steps = 1  # their training loop sets it
    return trainer


def inputs_of(trainer) -> dict[str, Tensor]:
    """A batch as their loss takes it: tokens, masks, advantages, and what the old policy and the reference say."""
    return trainer._generate_and_score_completions([{"prompt": prompt} for prompt in PROMPTS for _ in range(4)])


def step_of(trainer, inputs: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), gradients(trainer.model)


# --------------------------------------------------------------------------------------------------------------- ours


def groups(*, without_cut: bool = False) -> list[Group]:
    prompts = [TOKENIZER(prompt, add_special_tokens=False)["input_ids"] for prompt in PROMPTS]
    counts = [[[c[-1] == END] * len(c) for c in group] for group in COMPLETIONS] if without_cut else [(), ()]
    return [Group(*it) for it in zip(prompts, COMPLETIONS, counts, strict=True)]


def scored(model: nn.Module, batch: list[Group]) -> Scores:
    return score(Scorer(model), batch, token_budget=10**6, device=torch.device("cpu"), temperature=TEMPERATURE)


def our_step(
    name: str,
    *,
    moved: Tensor = NO_SHIFT,
    batch: list[Group] | None = None,
    reference: nn.Module | None = None,
    **settings: Any,
) -> tuple[float, dict[str, Tensor]]:
    """The steps of policy_gradients/train.py, from given completions and rewards to the gradient."""
    given = {"temperature": TEMPERATURE, "max_new_tokens": NEW_TOKENS, "group_size": 4, "kl_coef": 0.0, **settings}
    recipe = resolve(PolicyGradientConfig(algorithm=name, **given))
    model, batch, reward = policy(), batch or groups(), REWARD
    now, logp_ref = scored(model, batch), torch.empty(0)
    if reference is not None:
        logp_ref = scored(reference, batch).logp
        if recipe.kl_in_reward:
            penalty = recipe.kl.kl_coef * recipe.kl_estimate(now.logp, logp_ref)
            reward = reward - masked_sum(penalty, now.mask).view_as(reward)
    adv = recipe.advantage(reward).reshape(-1, 1)
    totals = Totals(int(now.mask.any(1).sum()), int(now.mask.sum()), NEW_TOKENS)
    batches, step_loss = micro_batches(batch, token_budget=14), 0.0
    assert len(batches) >= 2
    for rows in batches:
        n, t = rows.index, rows.mask.shape[1]
        scores = Scorer(model)(rows, TEMPERATURE)
        old = (now.logp - moved)[n, :t]
        ratio = recipe.ratio(scores.logp, old, scores.mask) if recipe.ratio else None
        loss = recipe.surrogate(scores.logp, ratio, adv[n], scores.mask)
        if reference is not None and recipe.kl_in_loss:
            loss = loss + recipe.kl.kl_coef * recipe.kl_estimate(scores.logp, logp_ref[n, :t])
        loss = recipe.aggregate(loss, scores.mask, totals)
        loss.backward()
        step_loss += loss.item()
    return step_loss, gradients(model)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


Step = tuple[float, dict[str, Tensor]]


def assert_same(ours: Step, theirs: Step, *, factor: float = 1.0, loss: bool = True) -> None:
    """fp32: their rows are padded, ours share the prompt, so sums are taken in another order."""
    if loss:
        assert ours[0] == pytest.approx(factor * theirs[0], abs=1e-6, rel=1e-5)
    assert ours[1].keys() == theirs[1].keys()
    assert max(gradient.abs().max() for gradient in ours[1].values()) > 0.01
    for name, gradient in ours[1].items():
        torch.testing.assert_close(
            gradient, factor * theirs[1][name], atol=2e-6, rtol=1e-4, msg=lambda m, n=name: n + m
        )


# -------------------------------------------------------------------------------------------------------------- tests

# What their settings have to be for our published ones, and how far tokens move: past both bounds of the clip.
THEIRS: dict[str, tuple[dict[str, Any], float]] = {
    "grpo": ({"loss_type": "grpo", "epsilon": 0.2}, 0.5),
    "drgrpo": ({"loss_type": "dr_grpo", "epsilon": 0.2, "scale_rewards": "none"}, 0.5),
    "dapo": ({"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28}, 0.5),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1 + 4.0}, 1.5),
    "sapo": ({"loss_type": "sapo", "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05}, 0.5),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        1e-3,
    ),
    "luspo": (
        {"loss_type": "luspo", "importance_sampling_level": "sequence", "epsilon": 2e-3, "epsilon_high": 2.5e-3},
        1e-2,
    ),
    "vespo": ({"loss_type": "vespo"}, 0.5),
}
UNCLIPPED = ("sapo", "vespo")


def their_step(path: Path, settings: dict[str, Any], moved: Tensor, **more: Any) -> Step:
    trainer = trainer_of("GRPO", path, beta=0.0, **settings, **more)
    inputs = inputs_of(trainer)
    t = inputs["completion_ids"].shape[1]
    old = scored(policy(), groups()).logp[:, :t] - moved[:, :t]
    return step_of(trainer, {**inputs, "old_per_token_logps": old})


def test_their_batch_is_ours(tmp_path: Path) -> None:
    """What is compared below starts from the same tokens, the same log-probabilities and the same policy."""
    trainer = trainer_of("GRPO", tmp_path, beta=0.0)
    inputs = inputs_of(trainer)
    rows = zip(
        *(inputs[f"{part}_{what}"] for part in ("prompt", "completion") for what in ("ids", "mask")), strict=True
    )
    theirs = [(p[m.bool()].tolist(), c[k.bool()].tolist()) for p, m, c, k in rows]
    assert theirs == [(group.prompt, completion) for group in groups() for completion in group.completions]
    ids, mask = (torch.cat([inputs[f"prompt_{what}"], inputs[f"completion_{what}"]], 1) for what in ("ids", "mask"))
    logp, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, inputs["completion_ids"].shape[1])
    ours = scored(policy(), groups())
    torch.testing.assert_close(torch.where(ours.mask, logp, 0.0), ours.logp, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", THEIRS)
def test_off_policy_step(name: str, tmp_path: Path) -> None:
    settings, scale = THEIRS[name]
    assert_same(our_step(name, moved=shift(scale)), their_step(tmp_path, settings, shift(scale)))


@pytest.mark.parametrize("name", [name for name in THEIRS if name not in UNCLIPPED])
def test_the_clip_is_felt(name: str) -> None:
    """The steps above would agree without one if no token had moved past it: with a wider clip, ours is another."""
    moved = shift(THEIRS[name][1])
    upper = {"clip_high": 1e6}
    lower = {"clip_low": 1 - 1e-6}
    _, clipped = our_step(name, moved=moved)
    for wider in (upper,) if name == "cispo" else (upper, lower):
        _, other = our_step(name, moved=moved, epochs_per_batch=2, **wider)
        assert max((clipped[key] - other[key]).abs().max() for key in clipped) > 1e-3


def test_dual_clip(tmp_path: Path) -> None:
    """Their `delta`: a bound of the ratio where the advantage is negative."""
    settings, _ = THEIRS["grpo"]
    moved = shift(1.0)
    assert_same(
        our_step("grpo", moved=moved, epochs_per_batch=2, dual_clip=1.5),
        their_step(tmp_path, settings, moved, delta=1.5),
    )
    assert our_step("grpo", moved=moved)[0] > our_step("grpo", moved=moved, epochs_per_batch=2, dual_clip=1.5)[0] + 0.01


@pytest.mark.parametrize("name", ["grpo", "drgrpo", "dapo"])
def test_cut_completions_left_out(name: str, tmp_path: Path) -> None:
    """One of eight was cut. Theirs divides by 8 sequences, ours by the 7 that count; by tokens, both agree."""
    settings, scale = THEIRS[name]
    theirs = their_step(tmp_path, settings, shift(scale), mask_truncated_completions=True)
    ours = our_step(name, moved=shift(scale), batch=groups(without_cut=True))
    assert_same(ours, theirs, factor=1.0 if name == "dapo" else 8 / 7)


def test_kl_in_the_loss(tmp_path: Path) -> None:
    """GRPO as published: 0.04 * k3 per token, from a reference that is another model."""
    reference = policy(seed=1)
    settings = {"loss_type": "grpo", "use_bias_correction_kl": False}
    trainer = trainer_of("GRPO", tmp_path, beta=0.04, reference=reference, **settings)
    ours = our_step("grpo", reference=reference, kl_coef=0.04)
    assert_same(ours, step_of(trainer, inputs_of(trainer)))
    assert ours[0] > 0.01, "the mean of z scores is 0: what is left is the penalty"


def test_kl_times_the_ratio_is_k2(tmp_path: Path) -> None:
    """Their default weighs k3 by the ratio. On-policy its gradient is k3 + dk3 = -log_r, which is that of our k2.

    r - 1 - log_r from the ratio, 1 - r from k3 itself. The value of their loss is k3's all the same.
    """
    reference = policy(seed=1)
    settings = {"loss_type": "grpo", "use_bias_correction_kl": True}
    trainer = trainer_of("GRPO", tmp_path, beta=0.04, reference=reference, **settings)
    theirs = step_of(trainer, inputs_of(trainer))
    k2, k3 = (our_step("grpo", reference=reference, kl_coef=0.04, kl_estimator=k) for k in ("k2", "k3"))
    assert_same(k2, theirs, loss=False)
    assert k3[0] == pytest.approx(theirs[0], abs=1e-6)


@pytest.mark.parametrize("coef", [0.0, 0.05])
def test_rloo(coef: float, tmp_path: Path) -> None:
    """On-policy, and with k1 summed over each completion taken off its reward."""
    reference = policy(seed=1) if coef else None
    trainer = trainer_of("RLOO", tmp_path, beta=coef, reference=reference, normalize_advantages=False)
    inputs = inputs_of(trainer)
    theirs, ours = step_of(trainer, inputs), our_step("rloo", reference=reference, kl_coef=coef)
    assert_same(ours, theirs, loss=False)
    assert theirs[0] == pytest.approx(0, abs=1e-5)
    now = scored(policy(), groups())
    of_completions = masked_sum(now.logp, now.mask)
    assert ours[0] == pytest.approx(-(inputs["advantages"] * of_completions).mean().item(), rel=1e-4)


SCALED = {
    "group": group_normalize,
    "none": center,
    # not one of ours
    "batch": lambda r: center(r) / (r.std() + 1e-4),
}


@pytest.mark.parametrize("scale", SCALED)
@pytest.mark.parametrize(
    "reward",
    [
        REWARD,
        torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]]),
        torch.tensor([[0.7] * 4, [-3.0, 2.5, 9.0, 1]]),
    ],
)
def test_advantages(scale: str, reward: Tensor, tmp_path: Path) -> None:
    trainer = trainer_of("GRPO", tmp_path, reward=reward, beta=0.0, scale_rewards=scale)
    theirs = inputs_of(trainer)["advantages"].view_as(reward)
    ours = SCALED[scale](reward)
    equal = (reward == reward[:, :1]).all(1)
    assert not ours[equal].any()
    torch.testing.assert_close(ours, theirs, atol=1e-3 if equal.any() else 1e-6, rtol=1e-5)


def test_components_normalized_apart(tmp_path: Path) -> None:
    components = torch.stack([REWARD, torch.tensor([[0.0, 2.0, 0.0, 1.0], [5.0, 5.0, 5.0, 5.0]])], -1)
    settings = {"multi_objective_aggregation": "normalize_then_sum", "reward_weights": [1.0, 0.3]}
    trainer = trainer_of("GRPO", tmp_path, reward=components, beta=0.0, **settings)
    theirs = inputs_of(trainer)["advantages"].view_as(REWARD)
    torch.testing.assert_close(normalize_apart(components, torch.tensor([1.0, 0.3])), theirs, atol=1e-5, rtol=1e-5)


def test_leave_one_out(tmp_path: Path) -> None:
    trainer = trainer_of("RLOO", tmp_path, beta=0.0, normalize_advantages=False)
    theirs = inputs_of(trainer)["advantages"].view_as(REWARD)
    torch.testing.assert_close(leave_one_out(REWARD), theirs, atol=1e-6, rtol=1e-5)
