"""Answers to many conversations, sampled a chunk at a time and kept in the cache, so that a stopped command goes on."""

from collections.abc import Callable, Sequence
from dataclasses import astuple

from rlhf.cache import cached, fingerprint, key
from rlhf.data.answers import Answer
from rlhf.generate.speaker import Speaker
from rlhf.random_keys import of_prompt
from rlhf.text.chat import Message, encode_prompt

AT_ONCE = 256  # completions in a chunk


def answers_in_chunks(
    speaker: Speaker,
    conversations: Sequence[Sequence[Message]],
    *,
    completions: int,
    seed: int,
    say: Callable[[str], None],
) -> list[list[Answer]]:
    """`completions` answers to each conversation: a function of model, settings, seed and prompt alone."""
    model = fingerprint(speaker.name)
    settings = speaker.settings.model_dump(exclude={"system_prompt", "answer_in"})  # the first is in the prompt
    found: list[list[Answer]] = []
    size = max(1, AT_ONCE // completions)
    for first in range(0, len(conversations), size):
        chunk = conversations[first : first + size]
        prompts = [encode_prompt(speaker.tokenizer, messages) for messages in chunk]
        entry = key(model, speaker.tokenizer.chat_template, prompts, settings, completions, seed, "generations 1")

        def make(chunk: Sequence[Sequence[Message]] = chunk, prompts: Sequence[Sequence[int]] = prompts) -> list:
            keys = [of_prompt(seed, repr(list(prompt))) for prompt in prompts]
            sampled = speaker.answers(chunk, keys, completions=completions)
            return [[astuple(answer) for answer in own] for own in sampled]

        found += [[Answer(*one) for one in own] for own in cached("generations", entry, make)]
        if len(found) < len(conversations):
            say(f"{len(found)} of {len(conversations)} prompts")
    return found
