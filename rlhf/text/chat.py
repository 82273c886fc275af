"""The only place that turns text into tokens and back.

A prompt and a completion are tokenized apart, at the boundary where sampling starts, so that training sees exactly the
tokens that generation would have seen. Templates bring their own special tokens, so none are added on top, and what the
data say never becomes a control token (`control_tokens.py`).
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.errors import MAX_UNUSABLE, UnusableError, UserError
from rlhf.text.control_tokens import Shield, Tokens, control_tokens
from rlhf.text.end_tokens import end_tokens

ROLES = ("system", "developer", "user", "assistant", "tool")
MARK = "\U0010fffe"  # stands for any content; never a stand-in, and in no data
CONTENT_KEYS = ("tool_calls", "reasoning_content", "reasoning", "thinking")  # of a message, besides its content
MAX_UNKNOWN = 0.1  # of the tokens of a prompt

# {"role": one of ROLES, "content": text}; of the assistant also CONTENT_KEYS, which the template must show.
Message = Mapping[str, Any]


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
    dialogue = _Dialogue(tokenizer, messages, tools)
    text = dialogue.render(len(messages), open_turn=True)
    dialogue.check_shown(text, len(messages), open_turn=True)
    return dialogue.shield.encode(text)


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    last_turn_only: bool = False,
) -> Conversation:
    """A conversation that ends with the assistant, split where its first counted turn starts.

    A turn runs from behind its opening to the first end token; what the template puts behind that (a line break,
    the end of the whole text) does not count. Where the opening of a prompt goes further than the rendered answer (it
    opens a thought that the answer does not have), the split is where they part; where the template drops the thought
    of the answer, the answer is put behind the opening as it would be sampled.

    Raises:
        UnusableError: if the conversation does not end with the assistant, or the template refuses it or leaves out a
            part of it.
        EarlierTurnsError: if its turns cannot be learned from one text.
    """
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns or turns[-1] != len(messages) - 1:
        raise UnusableError("a conversation must end with a message of the assistant")
    if turns[0] == 0:
        raise UnusableError("the conversation begins with the assistant: there is nothing that it answers")
    dialogue = _Dialogue(tokenizer, messages, tools)
    dialogue.check_shown(dialogue.render(len(messages)), len(messages))
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
    shield = Shield(tokenizer, _control(tokenizer))
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


# ------------------------------------------------------------------------------------------------------ the template


class _Dialogue:
    """Messages as a chat template renders them, with stand-ins for the control tokens that they name."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ):
        for message in messages:
            if message["role"] not in ROLES:
                raise UnusableError(f"role {message['role']!r}: wanted one of {', '.join(ROLES)}")
        self.tokenizer = tokenizer
        self.shield = Shield(tokenizer, _control(tokenizer))
        covered = self.shield.cover({"messages": list(map(dict, messages)), "tools": list(map(dict, tools))})
        self.messages, self.tools = covered["messages"], covered["tools"]

    @cached_property
    def ends(self) -> list[int]:
        return end_tokens(self.tokenizer)

    def render(self, count: int, *, open_turn: bool = False) -> str:
        """The first `count` messages."""
        return _render(self.tokenizer, self.messages[:count], tools=self.tools, open_turn=open_turn)

    def turn(self, at: int) -> tuple[str, str, bool]:
        """(text before the answer, the answer up to its end token, whether it has one) of message number `at`."""
        message = self.messages[at]
        opened, whole = self.render(at, open_turn=True), self.render(at + 1)
        start = len(opened) if whole.startswith(opened) else self._boundary(opened, whole, at)
        content = message["content"].strip()
        opening = _frame(self.tokenizer).opening
        turn = len(opened) - len(opening) if opened.endswith(opening) else start  # where this turn begins
        if _squeezed(content) in _squeezed(whole[turn:]):
            before, answer = whole[:start], whole[start:]
            found = whole.find(content, turn)
            behind = max(0, found + len(content) - start) if found >= 0 else 0
        elif start < len(opened):  # as sampled: behind an opening that the template does not show again
            missing = opened[start:]
            said = content.removeprefix(missing.strip()).lstrip("\n" if missing.endswith("\n") else "")
            before, answer, behind = opened, said + _frame(self.tokenizer).closing, len(said)
        else:
            raise UnusableError("the model's chat template leaves out a part of the assistant's answer")
        names = [str(name) for name in self.tokenizer.convert_ids_to_tokens(self.ends)]
        ends = [(answer.find(name, behind), name) for name in names if name in answer[behind:]]
        if not ends:
            return before, answer, False
        where, name = min(ends)
        return before, answer[: where + len(name)], True

    def _boundary(self, opened: str, whole: str, at: int) -> int:
        """Where the opening of a prompt and the rendered answer part: what both share is before it."""
        neutral = self._with(at, {"role": "assistant", "content": MARK})
        shared = _shared(opened, neutral, whole)
        for match in self.shield.tokens.any_pattern.finditer(opened):
            if match.start() < shared < match.end():  # within a token that both begin alike
                shared = match.start()
        if not _frame(self.tokenizer).opening.endswith(opened[shared:]):
            raise UnusableError("the model's chat template shows the prompt in another way once an answer follows")
        return shared

    def check_keys_shown(self, at: int) -> None:
        """Refuse a turn of the assistant whose calls or reasoning the template drops."""
        message = self.messages[at]
        for key in CONTENT_KEYS:
            without = {k: v for k, v in message.items() if k != key}
            if message.get(key) and self.render(at + 1) == self._with(at, without):
                raise UnusableError(f"{key}: the model's chat template does not show it")

    def check_shown(self, text: str, count: int, *, open_turn: bool = False) -> None:
        """Refuse a conversation of which the template drops a message or the tools.

        Not of the assistant: what becomes of its earlier turns is the template's to say.
        """
        squeezed = _squeezed(text)
        for i, message in enumerate(self.messages[:count]):
            if message["role"] == "assistant" or _squeezed(message["content"]) in squeezed:
                continue
            if text == self._with(i, {**message, "content": message["content"] + MARK}, count, open_turn=open_turn):
                raise UnusableError(f"message {i} ({message['role']}): the model's chat template does not show it")
        if self.tools and text == _render(self.tokenizer, self.messages[:count], tools=(), open_turn=open_turn):
            raise UnusableError("tools: the model's chat template does not show them")

    def _with(self, at: int, message: Message, count: int | None = None, *, open_turn: bool = False) -> str:
        """The first messages with another one in place of number `at`."""
        messages = [*self.messages[:at], message, *self.messages[at + 1 : count or at + 1]]
        return _render(self.tokenizer, messages, tools=self.tools, open_turn=open_turn)


@dataclass(frozen=True)
class _Frame:
    """What a template writes between a question and its answer, and behind an answer."""

    opening: str
    closing: str


def _frame(tokenizer: PreTrainedTokenizerBase) -> _Frame:
    return _frame_of(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=16)
def _frame_of(tokenizer: PreTrainedTokenizerBase, _template: str) -> _Frame:
    asked, answered = {"role": "user", "content": MARK}, {"role": "assistant", "content": MARK}
    opened = _render(tokenizer, [asked], open_turn=True)
    closed = _render(tokenizer, [{"role": "user", "content": "a"}, answered])
    return _Frame(opened.rpartition(MARK)[2], closed.rpartition(MARK)[2])


def _control(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    named = tuple(str(value) for value in tokenizer.special_tokens_map.values())
    return _control_of(tokenizer, str(tokenizer.chat_template), tuple(end_tokens(tokenizer)), named)


@lru_cache(maxsize=16)
def _control_of(
    tokenizer: PreTrainedTokenizerBase, template: str, ends: tuple[int, ...], _named: tuple[str, ...]
) -> Tokens:
    def render(messages: Sequence[Message], open_turn: bool) -> str:
        return _render(tokenizer, messages, open_turn=open_turn) if template != "None" else ""

    return control_tokens(tokenizer, ends, render)


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    open_turn: bool = False,
) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(
                list(map(dict, messages)),
                tools=list(map(dict, tools)) or None,
                tokenize=False,
                add_generation_prompt=open_turn,
            )
        )
    except Exception as error:  # jinja's, of many kinds
        raise UnusableError(f"the model's chat template refuses this conversation: {error}") from error


def _shared(*texts: str) -> int:
    """How many characters all of them begin with."""
    return next(
        (i for i, characters in enumerate(zip(*texts, strict=False)) if len({*characters}) > 1), min(map(len, texts))
    )


def _squeezed(text: str) -> str:
    """Without white space, which templates trim."""
    return "".join(text.split())
