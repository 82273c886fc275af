"""Models with a head of their own on the hidden states: one number a token (rewards), or classes a token (steps).

They are transformers' own classes, so that what is saved loads anywhere and gives the same scores there:
AutoModelForSequenceClassification with one label, which reads the last token of a conversation, and
AutoModelForTokenClassification. Heads are fp32, whatever the precision of the backbone: a sigmoid in bf16 ties
everything above 6.
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.errors import UserError
from rlhf.groups import Group, Rows, micro_batches
from rlhf.logprobs import hidden_states
from rlhf.models import architecture
from rlhf.models.architecture import HEADS, probing, refuse_long, refuse_lookahead, refuse_unknown_words
from rlhf.models.loading import find_model, load_weights, read_config
from rlhf.models.lora import Lora, add_lora
from rlhf.models.policy import load_policy
from rlhf.models.recomputing import checkpoint_activations
from rlhf.models.tokenizer import load_tokenizer
from rlhf.text.chat import encode_conversation, end_tokens
from rlhf.text.dialogue import takes_system_message

SEQUENCE, TOKEN = "ForSequenceClassification", "ForTokenClassification"
LANGUAGE_HEADS = ("lm_head", "embed_out")  # of language models, which reward models start from
TOLD = ("step_separator", "step_judged_at", "reward_statistics")  # keys that our reward models add to config.json
PROBE = [{"role": role, "content": "a"} for role in ("system", "user", "assistant")]


# ---------------------------------------------------------------------------------------------------------- loading


def load_with_head(
    name: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    classes: Sequence[str] = (),
    attention: str = "sdpa",
    extra_layers: int = 0,
    lora: Lora | None = None,
    gradient_checkpointing: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model in fp32 with a head, ready to train, and its tokenizer. The head is new unless the model has one.

    Args:
        tokenizer: the model's, if it is loaded already.
        classes: names of the classes of a token; none: one number, read at the last token.
        extra_layers: see `add_layers`.
    """
    tokenizer, source = tokenizer or load_tokenizer(name), find_model(name)
    kind = AutoModelForTokenClassification if classes else AutoModelForSequenceClassification
    labels = {"id2label": dict(enumerate(classes)), "label2id": {c: i for i, c in enumerate(classes)}}
    sizes = labels if classes else {"num_labels": 1}
    if source.gguf_file or (source.live is not None and not source.live.is_a(kind)):  # a causal language model
        policy = load_policy(name, attention=attention)
        for key, value in sizes.items():
            setattr(policy.config, key, value)
        if hasattr(policy.config, "quantization_config"):
            del policy.config.quantization_config  # what is saved is no GGUF any more
        model = kind.from_config(policy.config, attn_implementation=attention).float().eval()
        setattr(model, model.base_model_prefix, policy.base_model)
    else:  # the head of another kind of model is left behind
        look = partial(refuse_lookahead, source.label)
        model = load_weights(
            kind, source, attention=attention, heads=HEADS, left_behind=LANGUAGE_HEADS, look=look, **sizes
        )
    refuse_unknown_words(model, tokenizer, source.label)
    for key in TOLD:  # of the reward model that this one starts from
        if hasattr(model.config, key):
            delattr(model.config, key)
    _choose_pad(model, tokenizer)
    add_layers(model, extra_layers)
    if gradient_checkpointing:
        checkpoint_activations(model)
    if lora is not None:
        add_lora(model, lora, spared=HEADS)
        head_of(model).requires_grad_(True)
    refuse_other_readings(model, source.label)
    return model, tokenizer


def add_layers(model: PreTrainedModel, count: int) -> None:
    """Put `count` layers on top of the backbone, which change nothing yet: copies of an early one that add 0.

    A language model forms its prediction of the next token only in the last layer, where later positions can no longer
    attend to it. Layers on top can compare it with the token that came, which is most of what judging is; a deep model
    has layers to spare for that, a small one has not. Block expansion: Wu et al., "LLaMA Pro: Progressive LLaMA with
    Block Expansion", 2024, arXiv 2401.02415, where the copies are of the layer below. Here they are of the
    second layer, since early layers attend to neighbouring tokens: the prediction and the token that came.
    """
    if not count:
        return
    layers, config = _layers(model), model.config.get_text_config()
    early = min(1, len(layers) - 1)
    for _ in range(count):
        layer = deepcopy(layers[early])
        layer.self_attn.layer_idx = len(layers)
        for writes in (layer.self_attn.o_proj, layer.mlp.down_proj):
            nn.init.zeros_(writes.weight)
        layers.append(layer)
        if getattr(config, "layer_types", None):
            config.layer_types = [*config.layer_types, config.layer_types[early]]
    config.num_hidden_layers = len(layers)


def new_weights(model: PreTrainedModel, extra_layers: int) -> list[nn.Parameter]:
    """Those of the head and of the layers that `add_layers` put on top."""
    on_top = _layers(model)[-extra_layers:] if extra_layers else []
    return [p for module in (head_of(model), *on_top) for p in module.parameters()]


def _layers(model: PreTrainedModel) -> Any:  # nn.ModuleList
    layers = getattr(model.base_model, "layers", None)
    first = layers[0] if isinstance(layers, nn.ModuleList) else None
    parts = ("self_attn.o_proj", "mlp.down_proj")
    if first is None or not {*parts} <= {name for name, _ in first.named_modules()}:
        raise UserError(
            f"extra_layers: the layers of {type(model).__name__} are not built as Llama's, so none can be put on top",
            hint="Set extra_layers to 0, or choose another model.",
        )
    return layers


def load_trained(name: str, *, key: str = "reward_model") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A reward model that was trained, for scoring: frozen, as its config says it was saved.

    Args:
        key: of the setting that names it, for messages.

    Raises:
        UserError: if it has no head, or cannot be read as it is.
    """
    tokenizer, source = load_tokenizer(name, key=key), find_model(name, key=key)
    (architecture,) = read_config(source).architectures or [""]
    kinds = {SEQUENCE: AutoModelForSequenceClassification, TOKEN: AutoModelForTokenClassification}
    kind = next((kinds[ending] for ending in kinds if architecture.endswith(ending)), None)
    if kind is None:
        raise UserError(
            f"{source.label} is no reward model but a {architecture or 'model of unknown kind'}",
            hint="Train one: uv run python -m reward_models.train_preference_rm",
        )
    _refuse_no_reward(read_config(source), source.label, by_token=kind is kinds[TOKEN])
    model = load_weights(kind, source, look=partial(refuse_lookahead, source.label))
    refuse_unknown_words(model, tokenizer, source.label)
    refuse_other_readings(model, source.label)
    return model.requires_grad_(False), tokenizer


def _refuse_no_reward(config: PreTrainedConfig, label: str, *, by_token: bool) -> None:
    """Raises: UserError, of a classifier of others whose outputs are no reward, or are read at places nobody knows."""
    if not by_token and config.num_labels != 1:
        raise UserError(
            f"{label} tells {config.num_labels} classes apart, and a reward is one number",
            hint="Choose a model for sequence classification with one label.",
        )
    if by_token and not all(hasattr(config, key) for key in TOLD[:2]):
        raise UserError(
            f"{label} classifies tokens, and its config.json does not say which end a step ({', '.join(TOLD[:2])})",
            hint="Process models that this project trains do: uv run python -m reward_models.train_prm",
        )


def head_of(model: PreTrainedModel) -> nn.Linear:
    head = next((module for name in HEADS if isinstance(module := getattr(model, name, None), nn.Linear)), None)
    if head is None:
        raise UserError(
            f"{type(model).__name__} has no linear head: use a model whose classes in transformers have one"
        )
    return head


def _choose_pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """A padding token that no conversation contains.

    transformers takes the score at the last token that is not padding. With pad == eos, which is common, that would be
    the token before the end token, and saved models would give other scores than trained ones.
    """
    conversation = encode_conversation(tokenizer, PROBE if takes_system_message(tokenizer) else PROBE[1:])
    said = {*end_tokens(tokenizer), *conversation.prompt, *conversation.completion}
    known = [tokenizer.pad_token_id, *tokenizer.all_special_ids]
    pad = next((token for token in known if token is not None and token not in said), None)
    if pad is None:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        pad = tokenizer.pad_token_id
        if pad >= model.config.get_text_config().vocab_size:
            model.resize_token_embeddings(pad + 1)
    tokenizer.pad_token = str(tokenizer.convert_ids_to_tokens(pad))
    model.config.pad_token_id = pad
    model.config.get_text_config().pad_token_id = pad


# ---------------------------------------------------------------------------------------------------------- reading


class Readings(NamedTuple):
    """Outputs of the head at each token of n completions of at most t tokens; arbitrary at padding."""

    logits: Float[Tensor, "n t k"]  # fp32
    mask: Bool[Tensor, "n t"]  # True: the output is read
    last_index: Int[Tensor, " n"]  # where each completion's last token stands

    @property
    def final(self) -> Float[Tensor, " n"]:
        """The number read at the last token: the reward."""
        return self.logits[torch.arange(len(self.last_index), device=self.last_index.device), self.last_index, 0]

    def by_completion(self) -> list[tuple[Float[Tensor, "m k"], Float[Tensor, " k"]]]:
        """Of each completion, on the CPU: the logits at its tokens that count, and at its last token."""
        logits, mask = self.logits.cpu(), self.mask.cpu()
        return [(logits[i][mask[i]], logits[i, last]) for i, last in enumerate(self.last_index.tolist())]


class HeadScorer(nn.Module):
    """A model with a head whose forward pass returns `Readings`. A module, so that DDP and FSDP can wrap it."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, rows: Rows) -> Readings:
        states = hidden_states(self.model, rows)
        position, size = own_positions(rows)
        head = head_of(self.model)
        with torch.autocast(states.device.type, enabled=False):
            bias = None if head.bias is None else head.bias.float()
            logits = functional.linear(states.flatten(0, 1)[position].float(), head.weight.float(), bias)
        return Readings(logits, rows.mask, size - 1)


def own_positions(rows: Rows) -> tuple[Int[Tensor, "n t"], Int[Tensor, " n"]]:
    """Where in the flattened rows each completion's own tokens stand, and how many it has.

    `rows.logit_index` says where a token is predicted, which is the token before it, and for a first token the prompt's
    last. Completions lie behind their prompt one after the other, so a completion starts behind the prompt, or behind
    the completion before it if that has the same prompt. Places behind a completion's end repeat its last.
    """
    size = 1 + (rows.logit_index[:, 1:] > 0).sum(1)
    behind = rows.logit_index[:, 0].tolist()
    start: list[int] = []
    for i, prompt in enumerate(behind):
        same_prompt = i > 0 and behind[i - 1] == prompt
        start.append(start[i - 1] + int(size[i - 1]) if same_prompt else prompt + 1)
    within = torch.arange(rows.logit_index.shape[1], device=size.device).minimum(size[:, None] - 1)
    return torch.tensor(start, device=size.device)[:, None] + within, size


@torch.no_grad()
def read(
    scorer: HeadScorer, groups: Sequence[Group], *, token_budget: int, shared_prefix: bool, device: torch.device
) -> list[tuple[Float[Tensor, "m k"], Float[Tensor, " k"]]]:
    """For each completion of the groups, in order: logits at its tokens that count, and at its last token.

    Raises:
        UserError: if one is longer, with its prompt, than the model can read.
    """
    longest = max((len(g.prompt) + max(map(len, g.completions)) for g in groups), default=0)
    refuse_long(
        scorer.model.config, longest, f"an answer with its prompt takes {longest} tokens", "the length of answers"
    )
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for rows in micro_batches(groups, token_budget=token_budget, shared_prefix=shared_prefix):
        outputs = scorer(rows.to(device)).by_completion()
        found.update(zip(rows.index.tolist(), outputs, strict=True))
    return [found[i] for i in range(len(found))]


def refuse_other_readings(model: PreTrainedModel, label: str) -> None:
    """See that the head on the last hidden states is all that the model's own class does: some have a pooler or more
    layers there, and would give other scores where they are loaded.

    Raises:
        UserError: if it does more.
    """
    kind = type(model).__name__
    try:
        with probing(model) as tokens:
            ids = torch.tensor([tokens], device=next(model.parameters()).device)
            own = model(input_ids=ids, use_cache=False).logits[0]
            (rows,) = micro_batches([Group(tokens[:1], [tokens[1:]])], token_budget=len(tokens))
            ours = HeadScorer(model)(rows.to(ids.device)).logits[0]
            own, ours = (own[1:], ours) if own.ndim > 1 else (own, ours[-1])
            alike = torch.allclose(own.float(), ours, atol=1e-3, rtol=1e-3)
    except (AttributeError, TypeError, RuntimeError, ValueError) as error:
        raise UserError(f"{label} ({kind}) is not built as a backbone and a linear head: {error}") from error
    if not alike:
        raise UserError(
            f"{label} ({kind}) does more to its scores than a linear head on the last hidden states",
            hint="Choose a model with a plain head: Qwen, Llama and Mistral have one.",
        )


def takes_shared_rows(model: PreTrainedModel) -> bool:
    """Whether shared-prefix rows give this architecture's own scores; see rlhf.models.architecture."""
    scorer = HeadScorer(model)

    def at_last(rows: Rows) -> Float[Tensor, "n k"]:
        readings = scorer(rows)
        return readings.logits[torch.arange(len(readings.last_index)), readings.last_index]

    return architecture.takes_shared_rows(model, at_last)
