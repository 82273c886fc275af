"""Conversations to sampled answers."""

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.data.answers import Answer, sampled_answer
from rlhf.sampling import sample
from rlhf.text.chat import Message, encode_prompt, end_tokens, length_up_to


def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Message]],
    *,
    completions: int,
    keys: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_at: str = "end",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> list[list[Answer]]:
    """`completions` answers to each conversation, which ends with what is to be answered.

    Args:
        keys: of the random numbers of each conversation, see `rlhf.sampling`.
        stop_at: "end", or "answer" to cut an answer behind its first </answer>.
        temperature: 0 takes the likeliest token.
    """
    sampled = sample(
        model,
        [encode_prompt(tokenizer, messages) for messages in conversations],
        completions=completions,
        max_new_tokens=max_new_tokens,
        end_tokens=end_tokens(tokenizer),
        keys=keys,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
    )
    return [[sampled_answer(tokenizer, cut(tokenizer, tokens, stop_at)) for tokens in one.tokens] for one in sampled]


def cut(tokenizer: PreTrainedTokenizerBase, tokens: list[int], stop_at: str) -> list[int]:
    """A completion up to where it is read: all of it, or with `stop_at` "answer" the first </answer>."""
    return tokens[: length_up_to(tokenizer, tokens, "</answer>")] if stop_at == "answer" else tokens
