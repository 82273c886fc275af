"""`--plan`: what a run would load and where its memory would go, before anything is loaded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from rlhf.config.command import Command
from rlhf.config.reference import ReferenceConfig, offloads_reference
from rlhf.config.trainer import TrainerConfig
from rlhf.distributed import device_of, processes_asked
from rlhf.models.known_sizes import KNOWN_SIZES
from rlhf.models.loading import find_model, read_config
from rlhf.models.lora import Lora
from rlhf.models.packed import FEWEST_ROWS, bytes_of_packed
from rlhf.models.policy import choose_precision
from rlhf.prefix_cache import bytes_of_token
from rlhf.sampling import decoded_together
from rlhf.tensors import LOGITS_AT_ONCE

GB = 1e9
PHASES = ("sampling", "scoring", "training")  # of a step, one after the other
type Phase = Literal["always", "sampling", "scoring", "training"]


@dataclass(frozen=True)
class Need:
    what: str
    gigabytes: float
    why: str
    phase: Phase = "always"


@dataclass(frozen=True)
class _Learning:
    """Bytes of a weight that is trained, of its gradient and of its two moments."""

    weight: int
    gradient: int
    moments: int
    stored: str
    moments_in: str


_ADAMW = _Learning(4, 4, 8, "fp32", "fp32")
_LOW_MEMORY = _Learning(2, 2, 2, "bf16", "8 bits")  # see rlhf/models/low_memory.py


@dataclass(frozen=True)
class Plan:
    """What a run would do, and the memory that it would need."""

    task: str  # "SFT on demonstrations"
    size: str  # "200 steps of 8 conversations"
    memory: list[Need]

    @property
    def peak_gb(self) -> float:
        """What is always there, with the largest of what the phases of a step need."""
        by_phase = dict.fromkeys(("always", *PHASES), 0.0)
        for need in self.memory:
            by_phase[need.phase] += need.gigabytes
        return by_phase["always"] + max(by_phase[phase] for phase in PHASES)


def memory_needs(
    settings: TrainerConfig,
    *,
    reference: Phase | None = None,
    own_critic: bool = False,
    reward_models: Sequence[str] = (),
    judges: Sequence[str] = (),
    teachers: Mapping[str, Phase] = MappingProxyType({}),
    sampled: tuple[int, int] = (0, 0),
    at_once: int | None = None,
    vocabulary: bool = True,
) -> list[Need]:
    """Memory by purpose.

    Args:
        reference: when a reference is there, if at all; with offload_reference, while it scores. With LoRA it is the
            base under the adapters: it takes nothing.
        own_critic: whether PPO's critic is a network of its own.
        reward_models: their names.
        judges: names of the models that rubrics ask.
        teachers: names of other models, and when they are there: as frozen ones always, or to sample from, in fp32.
        sampled: completions, and new tokens of each.
        at_once: completions decoded together; None: as `rlhf.sampling` chooses it.
        vocabulary: whether training computes logits over the vocabulary; a reward model's head has one number.
    """
    in_bf16 = choose_precision(settings.precision, device_of(settings.device)) == "bf16"
    frozen, stored = (2, "bf16") if in_bf16 else (4, "fp32")  # bytes of a frozen weight; see rlhf/models/frozen.py
    model = _skeleton(settings.model_name)
    config = model.config.get_text_config()
    weights = sum(p.numel() for p in model.parameters())
    lora = Lora.of(settings)
    learning = _LOW_MEMORY if settings.low_memory else _ADAMW
    processes = processes_asked()
    shards = processes if settings.fsdp else 1
    needs = [
        *_needs_of_weights(model, lora, learning, frozen=(frozen, stored), shards=shards),
        _activations(config, settings, in_bf16=in_bf16),
    ]
    if vocabulary:
        logits = min(LOGITS_AT_ONCE, settings.token_budget * config.vocab_size)
        needs.append(Need("logits", 4 * 4 * logits / GB, "made in chunks, never all at once", "training"))
        if settings.low_memory:
            head = 4 * config.vocab_size * config.hidden_size / GB
            needs.append(Need("gradient in fp32", head, "of the vocabulary projection, in a backward pass", "training"))
    if in_bf16 and not lora and not settings.low_memory:
        needs.append(Need("autocast copies", 2 * weights / GB, "weights in bf16 while a pass lasts"))
    if reference and not lora:
        offloaded = offloads_reference(settings)
        why = f"frozen, {stored}" + (", else in the processor's memory" if offloaded else "")
        needs.append(Need("reference model", frozen * weights / GB, why, "scoring" if offloaded else reference))
    if own_critic:
        why = f"weights, gradients and moments, {learning.stored}; critic.backbone: policy"
        needs.append(
            Need("critic", (learning.weight + learning.gradient + learning.moments) * weights / shards / GB, why)
        )
    for what, names in (("reward model", reward_models), ("judge", judges)):
        for name in names:
            size = sum(p.numel() for p in _skeleton(name).base_model.parameters())
            needs.append(Need(what, frozen * size / GB, f"{name}, frozen, {stored}"))
    for teacher, phase in teachers.items():
        size = sum(p.numel() for p in _skeleton(teacher).parameters())
        wide, how = (4, "fp32") if phase == "sampling" else (frozen, stored)
        needs.append(Need("teacher", wide * size / GB, f"{teacher}, {size / 1e6:,.0f} M, {how}", phase))
    completions, length = -(-sampled[0] // processes), sampled[1]
    if completions:
        width = 2 if in_bf16 else 4
        at_once = at_once or decoded_together(config, length, memory=_memory(settings), width=width)
        completions = min(completions, at_once)
        on_card = settings.memory_gb or device_of(settings.device).type != "cpu"
        if completions >= FEWEST_ROWS and not on_card:
            size = bytes_of_packed(model, width=width) / GB
            needs.append(Need("packed weights", size, "laid out for decoding on a CPU", "sampling"))
        cache = completions * length * bytes_of_token(config, width=width)
        logits = 4 * 4 * completions * config.vocab_size  # logits, their softmax, its running sum, a copy
        why = f"{completions} completions of {length} tokens at once"
        needs.append(Need("key-value cache", (cache + logits) / GB, why, "sampling"))
    return needs


def _needs_of_weights(
    model: PreTrainedModel, lora: Lora | None, learning: _Learning, *, frozen: tuple[int, str], shards: int
) -> list[Need]:
    """Weights, gradients and moments of the model to train, in one of `shards` processes that divide them.

    Args:
        frozen: bytes of a frozen weight, and what it is stored in.
    """
    config = model.config.get_text_config()
    weights = sum(p.numel() for p in model.parameters())
    trained = _lora_weights(model, lora) if lora else weights
    stays = frozen[0] * weights + 4 * trained if lora else learning.weight * weights
    what = f"{weights / 1e6:,.0f} M frozen, in {frozen[1]}" if lora else f"{weights / 1e6:,.0f} M in {learning.stored}"
    of = f"of {trained / 1e6:,.0f} M trained weights, {learning.stored}"
    share = f", a share of 1/{shards}" if shards > 1 else ""
    needs = [
        Need("weights", stays / shards / GB, what + share),
        Need("gradients", learning.gradient * trained / shards / GB, of + share, "training"),
        Need(
            "optimizer",
            learning.moments * trained / shards / GB,
            f"AdamW's two moments, {learning.moments_in}{share}",
        ),
    ]
    if shards > 1:  # see rlhf/models/sharding.py
        outside = config.vocab_size * config.hidden_size / weights  # the embedding, which no layer has
        at_once = outside + 2 * (1 - outside) / config.num_hidden_layers
        gathered = at_once * (stays + learning.gradient * trained) / GB
        needs.append(Need("gathered", gathered, "embedding and two layers, with their gradients", "training"))
        needs.append(Need("whole model", stays / GB, "gathered to sample, score and evaluate", "sampling"))
    return needs


def _activations(config: PreTrainedConfig, settings: TrainerConfig, *, in_bf16: bool) -> Need:
    """What the backward pass of a micro-batch needs: with gradient checkpointing the states between layers, in fp32,
    and one layer's insides; without it the insides of all layers.

    The insides, in numbers a token: 33 for each unit of width (norms, queries, keys, values, rotations, their copies in
    fp32), and 5 for each unit of the feed-forward layer.
    """
    width = 2 if in_bf16 else 4
    hidden, layers = config.hidden_size, config.num_hidden_layers
    inside = width * (33 * hidden + 5 * config.intermediate_size)
    a_token = layers * 4 * hidden + inside if settings.gradient_checkpointing else layers * inside
    recomputed = ", layers recomputed" if settings.gradient_checkpointing else ""
    why = f"token_budget {settings.token_budget:,}{recomputed}"
    return Need("activations", a_token * settings.token_budget / GB, why, "training")


def _memory(settings: TrainerConfig) -> float:
    """Bytes of the card: what the run may take, else what is there, else no limit."""
    if settings.memory_gb:
        return settings.memory_gb * GB
    device = device_of(settings.device)
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else math.inf


def _skeleton(model_name: str) -> PreTrainedModel:
    """The model without its weights. One of KNOWN_SIZES needs no network."""
    known = KNOWN_SIZES.get(model_name)
    config = AutoConfig.for_model(**known) if known else read_config(find_model(model_name))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _lora_weights(model: PreTrainedModel, lora: Lora) -> int:
    head = model.get_output_embeddings()
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    return sum(lora.rank * (m.in_features + m.out_features) for name, m in linear if lora.adapts(name))


def show_plan[ConfigT: TrainerConfig](command: Command[ConfigT], plan: Plan) -> str:
    config = command.config
    lines = [
        f"{plan.task}, profile {command.profile} ({command.profile_reason}): {plan.size}, model "
        f"{config.model_name}, run directory {config.output_dir}"
    ]
    for need in plan.memory:
        phase = "" if need.phase == "always" else f" (while {need.phase})"
        lines.append(f"{need.what:<16} {need.gigabytes:7.2f} GB  {need.why}{phase}")
    lines.append(f"{'at most':<16} {plan.peak_gb:7.2f} GB  at once")
    if config.memory_gb:
        lines.append(_verdict(config, plan, config.memory_gb))
    return "\n".join(lines)


def _verdict(config: TrainerConfig, plan: Plan, limit: float) -> str:
    """Whether a run fits a card of so many GB, and which settings would make it smaller."""
    if plan.peak_gb <= limit:
        return f"fits in {limit:g} GB"
    levers = []
    if not config.lora_rank:
        lora = "--lora_rank 32"
        levers += [f"{lora} --low_memory false"] if config.low_memory else ["--low_memory true", lora]
    if not config.gradient_checkpointing:
        levers.append("--gradient_checkpointing true")
    stays = any(need.what == "reference model" and need.phase == "always" for need in plan.memory)
    if stays and isinstance(config, ReferenceConfig):
        levers.append("--offload_reference true")
    sizes = {need.what: need.gigabytes for need in plan.memory}
    if sizes["activations"] >= sizes.get("key-value cache", 0.0):
        levers.append(f"--token_budget {config.token_budget // 2}")
    if "key-value cache" in sizes and hasattr(config, "sampling_batch"):
        levers.append("a smaller --sampling_batch")
    return f"does NOT fit in {limit:g} GB; what would help: {', '.join(levers)}"
