"""The only place that turns text into tokens and back.

A prompt and a completion are tokenized apart, at the boundary where sampling starts, so that training sees exactly the
tokens that generation would have seen. Templates bring their own special tokens, so none are added on top, and what the
data say never becomes a control token (`control_tokens.py`).
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.errors import MAX_UNUSABLE, UnusableError, UserError
from rlhf.text.control_tokens import Shield
from rlhf.text.dialogue import Dialogue, Message, control_tokens_of
from rlhf.text.end_tokens import end_tokens

MAX_UNKNOWN = 0.1  # of the tokens of a prompt


@dataclass(frozen=True)
class Conversation:
    """A prompt and its continuation as token ids; `loss_mask` is True on the assistant's tokens and end tokens."""

    prompt: list[int]
    completion: list[int]
    loss_mask: list[bool]


class EarlierTurnsError(UnusableError):
    """The template shows an earlier answer differently once the conversation goes on, as those do that drop its
    thinking; or it ends no turn. Each answer then has a text of its own: see `encode_turns`."""


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = ()
) -> list[int]:
    """Messages, then the opening of the assistant's turn.

    Raises:
        UnusableError: if the template refuses the messages or does not show one of them.
    """
    dialogue = Dialogue(tokenizer, messages, tools)
    count = len(dialogue.messages)
    dialogue.check_shown(count, open_turn=True)
    return dialogue.shield.encode(dialogue.prompt(count))


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    last_turn_only: bool = False,
) -> Conversation:
    """A conversation that ends with the assistant, behind the prompt of its first counted turn: `encode_prompt` of what
    comes before it.

    A turn runs from behind its opening to the first end token; what the template puts behind that (a line break,
    the end of the whole text) does not count.

    Raises:
        UnusableError: if the conversation does not end with the assistant, or the template refuses it or leaves out a
            part of it.
        EarlierTurnsError: if its turns cannot be learned from one text.
    """
    dialogue = Dialogue(tokenizer, messages, tools)
    turns, count = dialogue.turns, len(dialogue.messages)
    if not turns or turns[-1] != count - 1:
        raise UnusableError("a conversation must end with a message of the assistant")
    if turns[0] == 0:
        raise UnusableError("the conversation begins with the assistant: there is nothing that it answers")
    dialogue.check_shown(count)
    for turn in turns:
        dialogue.check_keys_shown(turn)
    prompt: list[int] = []
    completion: list[int] = []
    loss_mask: list[bool] = []
    done = ""
    learned = turns[-1:] if last_turn_only else turns
    for turn in learned:
        before, answer, ended = dialogue.turn(turn)
        if not before.startswith(done) or (not ended and turn != turns[-1]):
            raise EarlierTurnsError(
                "the model's chat template rewrites earlier turns once a conversation goes on: several answers cannot "
                "be learned from one text"
            )
        context = dialogue.shield.encode(before[len(done) :])
        said = dialogue.shield.encode(answer)
        if not ended:  # a template without an end token: the model must learn to stop all the same
            if not dialogue.ends:
                raise UnusableError("neither the tokenizer nor the chat template has an end token")
            said.append(dialogue.ends[0])
        if turn == learned[0]:
            prompt = context
        else:
            completion += context
            loss_mask += [False] * len(context)
        completion += said
        loss_mask += [True] * len(said)
        done = before + answer
    return Conversation(prompt, completion, loss_mask)


def encode_turns(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    last_turn_only: bool = False,
) -> list[Conversation]:
    """One conversation; or one for each turn of the assistant where the template shows earlier turns differently.

    In the latter case each answer is learned behind the prompt that it would be sampled from.
    """
    try:
        return [encode_conversation(tokenizer, messages, tools=tools, last_turn_only=last_turn_only)]
    except EarlierTurnsError:
        turns = [i + 1 for i, message in enumerate(messages) if message["role"] == "assistant"]
        return [encode_conversation(tokenizer, messages[:end], tools=tools, last_turn_only=True) for end in turns]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text of the data alone, without a template; control tokens in it stay text."""
    shield = Shield(tokenizer, control_tokens_of(tokenizer))
    return shield.encode(shield.cover(text))


def refuse_unknown(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> None:
    """Refuse what a model could only learn as its unknown token.

    Raises:
        UnusableError: if a counted token is the unknown token, or more than a tenth of the others are.
    """
    tokens, loss_mask = conversation.completion, conversation.loss_mask
    learned = [token for token, counted in zip(tokens, loss_mask, strict=True) if counted]
    read = [token for token, counted in zip(tokens, loss_mask, strict=True) if not counted]
    if unknown := count_unknown(tokenizer, learned):
        raise UnusableError(f"the tokenizer does not know {unknown} of the {len(learned)} tokens of the answer")
    unknown = count_unknown(tokenizer, [*conversation.prompt, *read])
    if unknown > MAX_UNKNOWN * (len(conversation.prompt) + len(read)):
        raise UnusableError(f"the tokenizer does not know {unknown} tokens of the prompt, more than a tenth")


def refuse_unknown_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]]) -> None:
    """Refuse prompts to sample from if a model could not read them.

    Raises:
        UserError: if in more than 5 % of the prompts more than a tenth of the tokens are the unknown token.
    """
    unread = [prompt for prompt in prompts if count_unknown(tokenizer, prompt) > MAX_UNKNOWN * len(prompt)]
    if len(unread) > MAX_UNUSABLE * len(prompts):
        raise UserError(
            f"the model's tokenizer does not know more than a tenth of the tokens of {len(unread)} of {len(prompts)} "
            f"prompts: {str(tokenizer.decode(list(unread[0])))[:100]!r}",
            hint="Choose a model whose tokenizer knows these letters.",
        )


def count_unknown(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> int:
    """How many of the tokens are the tokenizer's unknown token; 0 where that is also an end (GPT-2 has one for all)."""
    unknown = tokenizer.unk_token_id
    return 0 if unknown is None or unknown in end_tokens(tokenizer) else sum(token == unknown for token in tokens)


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
