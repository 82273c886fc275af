"""A model that answers: loaded as it is, on a device, with the settings that it is asked with."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rlhf.data.answers import Answer, sampled_answer
from rlhf.distributed import open_device
from rlhf.generate.answers import sample_answers
from rlhf.generate.settings import GenerationSettings
from rlhf.models.policy import choose_precision, load, load_tokenizer
from rlhf.sampling import sample
from rlhf.text.chat import Message, decode, encode_prompt, end_tokens, length_up_to

UNFINISHED = "\ufffd"  # what a tokenizer decodes a part of a character to


class _Enough(Exception):
    """The answer is said; the model would go on."""


@dataclass(frozen=True)
class Speaker:
    """A model, its tokenizer, and how it is asked."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: GenerationSettings

    @classmethod
    def open(
        cls,
        name: str,
        settings: GenerationSettings,
        *,
        device: str,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any],
    ) -> "Speaker":
        """Load a model: a run, a folder, a Hub id, or one that comes along.

        Raises:
            UserError: it is no language model, or has no chat template and none is given.
        """
        transformers_logging.disable_progress_bar()
        tokenizer = load_tokenizer(name, chat_template=chat_template, chat_template_kwargs=chat_template_kwargs)
        model, _ = load(name, tokenizer=tokenizer)
        return cls(name, model.requires_grad_(False).to(open_device(device)), tokenizer, settings)

    def answers(
        self,
        conversations: Sequence[Sequence[Message]],
        keys: Sequence[Sequence[int]],
        *,
        completions: int = 1,
        greedy: bool = False,
    ) -> list[list[Answer]]:
        """Sampled answers to each conversation, or its likeliest one; see `sample_answers`."""
        settings = self.settings
        with self._autocast():
            return sample_answers(
                self.model,
                self.tokenizer,
                conversations,
                completions=completions,
                keys=keys,
                max_new_tokens=settings.max_new_tokens,
                stop_at=settings.stop_at,
                temperature=0.0 if greedy else settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
            )

    def stream(self, messages: Sequence[Message], key: Sequence[int], say: Callable[[str], None]) -> Answer:
        """An answer to one conversation; `say` is given each piece of its text as soon as it is sampled.

        Ctrl-C ends the answer, which is then what has been said so far, and has not ended.
        """
        said: list[int] = []
        shown = ""

        def hear(token: int) -> None:
            nonlocal shown
            said.append(token)
            text = decode(self.tokenizer, said)
            if not text.endswith(UNFINISHED):
                say(text[len(shown) :])
                shown = text
            if self.settings.stop_at == "answer" and length_up_to(self.tokenizer, said, "</answer>") is not None:
                raise _Enough

        settings = self.settings
        try:
            with self._autocast():
                sample(
                    self.model,
                    [encode_prompt(self.tokenizer, messages)],
                    completions=1,
                    max_new_tokens=settings.max_new_tokens,
                    end_tokens=end_tokens(self.tokenizer),
                    keys=[key],
                    temperature=settings.temperature,
                    top_k=settings.top_k,
                    top_p=settings.top_p,
                    on_token=hear,
                )
        except (KeyboardInterrupt, _Enough):
            pass
        return sampled_answer(self.tokenizer, said)

    def is_whole(self, answer: Answer) -> bool:
        """Whether an answer ends where it should, and was not cut off."""
        return answer.ended or (self.settings.stop_at == "answer" and "</answer>" in answer.text)

    def _autocast(self) -> AbstractContextManager:
        device = self.model.device
        bf16 = device.type == "cuda" and choose_precision("auto", device) == "bf16"
        return torch.autocast(device.type, torch.bfloat16, enabled=bf16)
