"""`--plan`: what a run would load and where its memory would go, before anything is loaded."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

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
from rlhf.sampled_together import bytes_of_sampling, prompts_together
from rlhf.tensors import LOGITS_AT_ONCE

GB = 1e9
MARGIN = 1.1  # on a GPU a peak was measured up to 8 % above its plan
PHASES = ("sampling", "scoring", "training")  # of a step, one after the other
type Phase = Literal["always", "sampling", "scoring", "training"]


@dataclass(frozen=True)
class Need:
    what: str
    gigabytes: float
    why: str
    phase: Phase = "always"


@dataclass(frozen=True)
class Sampled:
    """What a run samples at a time."""

    prompts: int
    completions: int  # of each prompt
    length: int  # new tokens of each completion
    prompt: int = 256  # tokens of a prompt: a guess for tasks, whose prompts nobody has read yet
    at_once: int | None = None  # completions decoded together; None: as `rlhf.sampled_together` chooses it


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
    sampled: Sequence[Sampled] = (),
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
        sampled: in training and in evaluations, one after the other.
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
    width = 2 if in_bf16 else 4
    sampling = [_sampling(config, settings, each, width=width) for each in sampled if each.prompts]
    if sampling:
        on_card = settings.memory_gb or device_of(settings.device).type != "cpu"
        if max(rows for _, rows in sampling) >= FEWEST_ROWS and not on_card:
            copies = bytes_of_packed(model, width=width) / GB
            needs.append(Need("packed weights", copies, "laid out for decoding on a CPU", "sampling"))
        needs.append(max((need for need, _ in sampling), key=lambda need: need.gigabytes))
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


def _sampling(config: PreTrainedConfig, settings: TrainerConfig, sampled: Sampled, *, width: int) -> tuple[Need, int]:
    """What sampling takes, and how many completions are decoded together. The processes share the prompts."""
    size = {"prompt": sampled.prompt, "completions": sampled.completions, "length": sampled.length, "width": width}
    if sampled.at_once:
        together = max(1, sampled.at_once // sampled.completions)
    else:
        together = prompts_together(config, memory=_memory(settings), **size)
    prompts = min(together, -(-sampled.prompts // processes_asked()))
    rows = prompts * sampled.completions
    why = f"{rows} completions of {sampled.length} tokens at once, of prompts of {sampled.prompt:,}"
    return Need("key-value cache", prompts * bytes_of_sampling(config, **size) / GB, why, "sampling"), rows


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


def show_plan[ConfigT: TrainerConfig](command: Command[ConfigT], plan_of: Callable[[ConfigT], Plan]) -> str:
    config = command.config
    plan = plan_of(config)
    lines = [
        f"{plan.task}, profile {command.profile} ({command.profile_reason}): {plan.size}, model "
        f"{config.model_name}, run directory {config.output_dir}"
    ]
    for need in plan.memory:
        phase = "" if need.phase == "always" else f" (while {need.phase})"
        lines.append(f"{need.what:<16} {need.gigabytes:7.2f} GB  {need.why}{phase}")
    lines.append(f"{'at most':<16} {plan.peak_gb:7.2f} GB  at once")
    if config.memory_gb:
        lines.append(_verdict(config, plan, plan_of, config.memory_gb))
    return "\n".join(lines)


def _verdict[ConfigT: TrainerConfig](
    config: ConfigT, plan: Plan, plan_of: Callable[[ConfigT], Plan], limit: float
) -> str:
    """Whether a run fits a card of so many GB, and which settings get there: each alone, or else all together."""

    def peak(changes: Mapping[str, Any]) -> float:
        return plan_of(config.model_copy(update=changes)).peak_gb

    def options(changes: Mapping[str, Any]) -> str:
        changed = {key: value for key, value in changes.items() if value != getattr(config, key)}
        return " ".join(f"--{key} {json.dumps(value).strip('"')}" for key, value in changed.items())

    needed = plan.peak_gb
    if needed * MARGIN <= limit:
        return f"fits in {limit:g} GB"
    said = f"does NOT fit in {limit:g} GB; "
    if needed <= limit:
        said = f"may not fit in {limit:g} GB (a peak can be {MARGIN - 1:.0%} above its plan); "
    levers = _levers(config, plan)
    reached: dict[tuple[str, ...], str] = {}
    for lever in levers:
        if (size := peak(lever)) * MARGIN <= limit:
            reached.setdefault(tuple(lever), f"{options(lever)} ({size:.2f} GB)")
    if reached:
        return said + "it would with " + ", or with ".join(reached.values())
    together = {key: value for lever in levers for key, value in lever.items()}
    size = peak(together)
    if size * MARGIN <= limit:
        return f"{said}it would with {options(together)} ({size:.2f} GB)"
    return f"{said}with {options(together)} it takes {size:.2f} GB still: choose a smaller model, or a larger card"


def _levers(config: TrainerConfig, plan: Plan) -> list[dict[str, Any]]:
    """Settings that make a run smaller. Those behind replace those before: adapters take less than `low_memory`."""
    levers: list[dict[str, Any]] = []
    if not config.gradient_checkpointing:
        levers.append({"gradient_checkpointing": True})
    levers += [{"token_budget": config.token_budget // part} for part in (2, 4)]
    if getattr(config, "sampling_batch", None):
        levers.append({"sampling_batch": None})
    if not config.lora_rank:
        has_reference = any(need.what == "reference model" and need.phase == "always" for need in plan.memory)
        offload = isinstance(config, ReferenceConfig) and has_reference
        levers += [{"offload_reference": True}] if offload else []
        if not (config.low_memory or config.fsdp):
            levers.append({"low_memory": True, "precision": "bf16"})
        levers.append({"lora_rank": 32, "low_memory": False} | ({"offload_reference": False} if offload else {}))
    return levers
