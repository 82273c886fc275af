"""`--plan`: what a run would load and where its memory would go, before anything is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlhf.config.command import Command
from rlhf.config.trainer import TrainerConfig
from rlhf.distributed import device_of
from rlhf.models.loading import read_config
from rlhf.models.policy import choose_precision, find_model
from rlhf.tensors import LOGITS_AT_ONCE

GB = 1e9
# Of activations kept for backward, in numbers per token, layer and unit of width: attention and feed-forward inputs and
# outputs. With gradient checkpointing only the layer's input is kept.
KEPT_PER_LAYER = 34
KEPT_WHEN_CHECKPOINTING = 2


@dataclass(frozen=True)
class Need:
    what: str
    gigabytes: float
    why: str


@dataclass(frozen=True)
class Plan:
    """What a run would do, and the memory that it would need."""

    task: str  # "SFT on demonstrations"
    size: str  # "200 steps of 8 conversations"
    memory: list[Need]


def memory_needs(
    settings: TrainerConfig,
    *,
    reference: bool = False,
    own_critic: bool = False,
    judges: Sequence[str] = (),
    sampled: tuple[int, int] = (0, 0),
) -> list[Need]:
    """Memory by purpose. `judges`: names of reward models; `sampled`: (completions decoded together, new tokens)."""
    precision = choose_precision(settings.precision, device_of(settings.device))
    lora_rank, token_budget = settings.lora_rank, settings.token_budget
    model = _skeleton(settings.model_name)
    config = model.config.get_text_config()
    weights = sum(p.numel() for p in model.parameters())
    trained = _lora_weights(model, lora_rank) if lora_rank else weights
    width = 2 if precision == "bf16" else 4
    layers, hidden = config.num_hidden_layers, config.hidden_size
    kept = KEPT_WHEN_CHECKPOINTING if settings.gradient_checkpointing else KEPT_PER_LAYER
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    completions, length = sampled

    needs = [
        Need("weights", 4 * (weights + (trained if lora_rank else 0)) / GB, f"{weights / 1e6:,.0f} M in fp32"),
        Need("gradients", 4 * trained / GB, f"of {trained / 1e6:,.0f} M trained weights, fp32"),
        Need("optimizer", 8 * trained / GB, "AdamW's two moments, fp32"),
        Need("activations", width * kept * layers * hidden * token_budget / GB, f"token_budget {token_budget:,}"),
        Need("logits", 2 * 4 * LOGITS_AT_ONCE / GB, "made in chunks, never all at once"),
    ]
    if precision == "bf16":
        needs.append(Need("autocast copies", 2 * weights / GB, "weights in bf16 while a pass lasts"))
    if reference:
        needs.append(Need("reference model", 4 * weights / GB, "frozen, fp32; kl_coef 0 does without"))
    if own_critic:
        needs.append(Need("critic", 16 * weights / GB, "weights, gradients and moments, fp32; critic.backbone: policy"))
    for judge in judges:
        size = sum(p.numel() for p in _skeleton(judge).base_model.parameters())
        needs.append(Need("reward model", 4 * size / GB, f"{judge}, frozen, fp32"))
    if completions:
        cache = 2 * width * layers * heads * head * completions * length
        needs.append(Need("key-value cache", cache / GB, f"{completions} completions of {length} tokens at once"))
    return needs


def _skeleton(model_name: str) -> PreTrainedModel:
    """The model without its weights."""
    source = find_model(model_name)
    config = read_config(source)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _lora_weights(model: PreTrainedModel, rank: int) -> int:
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    return sum(rank * (m.in_features + m.out_features) for m in linear)


def show_plan[ConfigT: TrainerConfig](command: Command[ConfigT], plan: Plan) -> str:
    config = command.config
    total = sum(need.gigabytes for need in plan.memory)
    return "\n".join(
        [
            f"{plan.task}, profile {command.profile} ({command.profile_reason}): {plan.size}, model "
            f"{config.model_name}, run directory {config.output_dir}",
            *(f"{need.what:<16} {need.gigabytes:7.2f} GB  {need.why}" for need in plan.memory),
            f"{'together':<16} {total:7.2f} GB, at most",
        ]
    )
