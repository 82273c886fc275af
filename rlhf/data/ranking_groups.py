"""Rankings to shared-prefix groups: the prompt once, the completions as branches, all within `max_length` tokens."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from transformers import PreTrainedTokenizerBase

from rlhf.data.answers import encode_answer
from rlhf.data.preferences import Ranking
from rlhf.data.rows import TooLong
from rlhf.groups import Group
from rlhf.text.chat import Conversation, EarlierTurnsError, Message, encode_conversation, refuse_unknown

type Truncation = Literal["keep_start", "keep_end"]


class Limits(TypedDict):
    """How long a prompt with its completions may be, in tokens, and what is cut."""

    max_length: int
    truncation: Truncation


@dataclass(frozen=True)
class Fitted:
    """A group that fits, and what it lost for that."""

    group: Group
    answers_cut: int = 0  # how many
    prompt_cut: bool = False


def to_group(
    tokenizer: PreTrainedTokenizerBase, ranking: Ranking, *, max_length: int, truncation: Truncation
) -> Fitted:
    """The prompt once, the completions as branches in the order of the ranking.

    The loss mask is True on the assistant's tokens and end tokens. Answers that were sampled with this tokenizer keep
    their tokens, and one that was cut off has no end token. A prompt with its longest completion may take `max_length`
    tokens; beyond that,

    - `keep_end` shortens the prompt at its start: answers stay whole, and so do their end tokens. One token of the
      prompt has to fit in front of the longest.
    - `keep_start` keeps the prompt whole and cuts the answers at the end, which loses their end tokens: nothing is put
      in their place, so that a model does not learn to stop there.

    Raises:
        TooLong: if there is no room, or the answers differ only behind the cut.
        ValueError: if the chat template refuses the conversation, its tokens are unknown or those of two answers equal.
    """
    prompt, completions, loss_masks = _branches(tokenizer, ranking)
    first = _first_difference(completions)
    if first is None:
        raise ValueError("two answers are the same tokens")
    longest = max(map(len, completions))
    if truncation == "keep_end":
        room = max_length - longest
        if room < 1:
            raise TooLong(longest + 1, max_length)
        return Fitted(Group(prompt[-room:], completions, loss_masks), prompt_cut=len(prompt) > room)
    room = max_length - len(prompt)
    learned = max(counted.index(True) for counted in loss_masks)  # a completion may begin with what the prompt's end is
    if room <= max(first, learned):
        raise TooLong(len(prompt) + max(first, learned) + 1, max_length)
    cut = sum(len(completion) > room for completion in completions)
    for completion, counted in zip(completions, loss_masks, strict=True):
        last = max(i for i, it in enumerate(counted[:room]) if it) + 1
        del completion[last:], counted[last:]
    if _first_difference(completions) is None:  # they differed in a turn of the user that is cut off now
        raise TooLong(len(prompt) + longest, max_length)
    return Fitted(Group(prompt, completions, loss_masks), answers_cut=cut)


def describe_cuts(fitted: Iterable[Fitted], *, max_length: int, say: Callable[[str], None]) -> None:
    """Say what truncation took away."""
    fitted = list(fitted)
    answers, prompts = sum(one.answers_cut for one in fitted), sum(one.prompt_cut for one in fitted)
    if answers:
        say(f"data: {answers} answers are cut at max_length {max_length} and have no end token (truncation keep_start)")
    if prompts:
        say(f"data: {prompts} prompts lose their start to fit into max_length {max_length} (truncation keep_end)")


def _branches(
    tokenizer: PreTrainedTokenizerBase, ranking: Ranking
) -> tuple[list[int], list[list[int]], list[list[bool]]]:
    """Prompt, completions and loss masks.

    For some answers a template ends the prompt otherwise (it opens a thought that the answer does not have). Then the
    end of the prompt is part of the completions, outside the loss mask.
    """
    if ranking.answers:
        encoded = [encode_answer(tokenizer, ranking.prompt, answer) for answer in ranking.answers]
    else:
        encoded = [_encode(tokenizer, ranking.prompt, completion) for completion in ranking.completions]
    for one in encoded:
        refuse_unknown(tokenizer, one)
    return shared_prompt(encoded)


def shared_prompt(encoded: Sequence[Conversation]) -> tuple[list[int], list[list[int]], list[list[bool]]]:
    """(prompt, completions, loss_masks) of conversations that begin alike, the prompt being what all begin with."""
    shared = min(_in_common(encoded[0].prompt, one.prompt) for one in encoded)
    prompt = list(encoded[0].prompt[:shared])
    rests = [list(one.prompt[len(prompt) :]) for one in encoded]
    completions = [[*rest, *one.completion] for rest, one in zip(rests, encoded, strict=True)]
    loss_masks = [[*[False] * len(rest), *one.loss_mask] for rest, one in zip(rests, encoded, strict=True)]
    return prompt, completions, loss_masks


def _first_difference(completions: Sequence[Sequence[int]]) -> int | None:
    """How many tokens in, any two of the completions have become different; None if two never do."""
    latest = 0
    for i, one in enumerate(completions):
        for other in completions[:i]:
            if list(one) == list(other):
                return None
            latest = max(latest, _in_common(one, other))
    return latest


def _in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens are the same."""
    different = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(different, min(len(one), len(other)))


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: list[Message], completion: list[Message]) -> Conversation:
    """Split behind the prompt, whatever turns the assistant had in it.

    All answers of a completion of several turns count, or the last alone where the template shows earlier ones in
    another way than they are sampled.
    """
    messages = [*prompt, *completion]
    if len(completion) == 1:
        return encode_conversation(tokenizer, messages, last_turn_only=True)
    try:
        whole = encode_conversation(tokenizer, messages)
    except EarlierTurnsError:
        return encode_conversation(tokenizer, messages, last_turn_only=True)
    turns_before = sum(message["role"] == "assistant" for message in prompt)
    starts = [i for i, counted in enumerate(whole.loss_mask) if counted and (i == 0 or not whole.loss_mask[i - 1])]
    start = starts[turns_before]
    return Conversation([*whole.prompt, *whole.completion[:start]], whole.completion[start:], whole.loss_mask[start:])
