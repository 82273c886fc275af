"""Models that a Python program hands over: named by what they hold, and copied, so that its own stays as it is."""

import hashlib
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config.live import PREFIX

LOOKED_AT = 64  # numbers of each weight that a model's name depends on, besides their sum


@dataclass(frozen=True)
class LiveModel:
    """A model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def name(self) -> str:
        """`python:Qwen3ForCausalLM-` and a digest of weights and words: another model has another name."""
        digest = hashlib.sha256(repr([self.tokenizer.chat_template, len(self.tokenizer)]).encode())
        for key, weight in self.model.named_parameters():
            some = weight.detach().flatten()[:LOOKED_AT].double().tolist()
            digest.update(repr([key, tuple(weight.shape), float(weight.detach().double().sum()), some]).encode())
        return f"{PREFIX}{type(self.model).__name__}-{digest.hexdigest()[:12]}"

    def copy(self, *, attention: str) -> PreTrainedModel:
        """The model in fp32 and evaluation mode, with all weights to train, and an attention kernel by its name."""
        copied = deepcopy(self.model)
        for parameter in copied.parameters():
            parameter.data, parameter.grad = parameter.data.float(), None
            parameter.requires_grad_(True)
        if copied.config._attn_implementation != attention:
            copied.set_attn_implementation(attention)
        return copied.eval()

    def is_a(self, kind: Any) -> bool:
        """Whether the model is what this auto class of transformers makes of its config."""
        wanted = kind._model_mapping.get(type(self.model.config), ())
        return isinstance(self.model, wanted)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype
