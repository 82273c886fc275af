"""The only place that turns text into tokens and back.

A prompt and a completion are tokenized apart, at the boundary where sampling starts, so that training sees exactly the
tokens that generation would have seen. Templates bring their own special tokens, so none are added on top.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rlhf.end_tokens import end_tokens
from rlhf.errors import UserError

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}


@dataclass(frozen=True)
class Conversation:
    """A prompt and what follows it, as token ids; `counts` is True on the assistant's tokens, end tokens included."""

    prompt: list[int]
    completion: list[int]
    counts: list[bool]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Messages, then the opening of the assistant's turn."""
    return _encode(tokenizer, _template(tokenizer, messages, open_turn=True))


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, last_turn_only: bool = False
) -> Conversation:
    """A conversation that ends with the assistant, split where its first counted turn starts.

    A turn runs from behind its opening to the first end token; what the template puts behind that (a line break,
    mostly) does not count.

    Raises:
        ValueError: if the conversation does not end with the assistant.
        UserError: if the template rewrites earlier turns (some drop the thinking of past turns).
    """
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns or turns[-1] != len(messages) - 1:
        raise ValueError("a conversation must end with a message of the assistant")
    if last_turn_only:
        turns = turns[-1:]
    ends = end_tokens(tokenizer)
    prompt: list[int] = []
    completion: list[int] = []
    counts: list[bool] = []
    done = ""
    for turn in turns:
        before = _template(tokenizer, messages[:turn], open_turn=True)
        after = _template(tokenizer, messages[: turn + 1], open_turn=False)
        if not before.startswith(done) or not after.startswith(before):
            raise UserError(
                "the model's chat template rewrites earlier turns of a conversation: they would be learned as they are "
                "never sampled",
                hint="Learn the last turn only (instruction tuning: --last_turn_only true).",
            )
        context = _encode(tokenizer, before[len(done) :])
        answer = _encode(tokenizer, after[len(before) :])
        stop = next((i + 1 for i, token in enumerate(answer) if token in ends), None)
        if stop is None:  # a template without an end token: the model must learn to stop all the same
            answer, stop = [*answer, ends[0]], len(answer) + 1
        if turn == turns[0]:
            prompt = context
        else:
            completion += context
            counts += [False] * len(context)
        completion += answer
        counts += [i < stop for i in range(len(answer))]
        done = after
    last = max(i for i, counted in enumerate(counts) if counted) + 1
    return Conversation(prompt, completion[:last], counts[:last])


def decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """The text of a completion, without tokens that end, pad or begin a text.

    Other special tokens are said: some models have <think> and <answer> among them, and whoever reads the answer must
    see them.
    """
    silent = {*end_tokens(tokenizer), tokenizer.pad_token_id, tokenizer.bos_token_id}
    return str(tokenizer.decode([token for token in tokens if token not in silent], skip_special_tokens=False))


def length_up_to(tokenizer: PreTrainedTokenizerBase, tokens: list[int], text: str) -> int | None:
    """How many of the tokens it takes until `text` has been said; None if it never is.

    By the text and not by token ids, since what stands before a tag may be tokenized together with its first letters.
    """
    if text not in str(tokenizer.decode(tokens)):
        return None
    return bisect_left(range(len(tokens)), True, key=lambda n: text in str(tokenizer.decode(tokens[:n])))


def _template(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, open_turn: bool) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(list(map(dict, messages)), tokenize=False, add_generation_prompt=open_turn)
        )
    except Exception as error:  # jinja's, of many kinds
        raise UserError(f"the model's chat template refuses this conversation: {error}") from error


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
