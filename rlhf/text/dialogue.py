"""A conversation as the model's chat template renders it: what a prompt is, and what stands behind it as the answer.

The prompt of an answer is what generation would be given. Where a template renders an answer in another way than it is
sampled (its prompt opens a thought that the answer does not have, or it drops the thought of the answer), the answer is
put behind the prompt as it would be sampled.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from rlhf.errors import UnusableError
from rlhf.text.control_tokens import Shield, Tokens, control_tokens
from rlhf.text.end_tokens import end_tokens

ROLES = ("system", "developer", "user", "assistant", "tool")
CONTENT_KEYS = ("tool_calls", "reasoning_content", "reasoning", "thinking")  # of a message, besides its content
MARK = "\U0010fffe"  # stands for any content; never a stand-in, and in no data
THOUGHT = re.compile(r"(?:<(?P<opened>\w+)>\s*)?(?:</(?P<closed>\w+)>\s*)?$")  # at the end of a prompt
_MOVED = "moves_system_messages"  # attribute of a tokenizer

# {"role": one of ROLES, "content": text}; of the assistant also CONTENT_KEYS, which the template must show.
Message = Mapping[str, Any]


class Turn(NamedTuple):
    """An answer of the assistant: the prompt that it is sampled from, its text, and whether that has an end token."""

    prompt: str
    answer: str
    ended: bool


class Dialogue:
    """Messages as a chat template renders them, with stand-ins for the control tokens that they name.

    A system message that the template does not take stands in front of the first message of the user.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ):
        for message in messages:
            if message["role"] not in ROLES:
                raise UnusableError(f"role {message['role']!r}: wanted one of {', '.join(ROLES)}")
        self.tokenizer = tokenizer
        self.shield = Shield(tokenizer, control_tokens_of(tokenizer))
        placed = _place_system_message(tokenizer, messages)
        covered = self.shield.cover({"messages": list(map(dict, placed)), "tools": list(map(dict, tools))})
        self.messages, self.tools = covered["messages"], covered["tools"]

    @cached_property
    def ends(self) -> list[int]:
        return end_tokens(self.tokenizer)

    @property
    def turns(self) -> list[int]:
        """The numbers of the assistant's messages."""
        return [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]

    def prompt(self, count: int) -> str:
        """The first `count` messages, and the opening of the assistant's turn."""
        return self._render(count, open_turn=True)

    def turn(self, at: int) -> Turn:
        """Message number `at`, of the assistant, behind the prompt that it would be sampled from.

        Raises:
            UnusableError: the template leaves out a part of it, or shows the prompt in another way.
        """
        prompt, whole = self.prompt(at), self._render(at + 1)
        content = self.messages[at]["content"].strip()
        frame = _frame(self.tokenizer)
        start = len(prompt) - len(frame.opening) if prompt.endswith(frame.opening) else _shared(prompt, whole)
        shown = _squeezed(content) in _squeezed(whole[start:])
        header = prompt.removesuffix(frame.thought)
        if shown and whole.startswith(prompt):
            answer = whole[len(prompt) :]
        elif frame.thought and prompt.endswith(frame.opening) and whole.startswith(header):
            answer = continue_thought(frame.thought, whole[len(header) :] if shown else content + frame.closing)
        elif whole.startswith(prompt):
            raise UnusableError("the model's chat template leaves out a part of the assistant's answer")
        else:
            raise UnusableError("the model's chat template shows the prompt in another way once an answer follows")
        return Turn(prompt, *self._up_to_its_end(answer, content))

    def _up_to_its_end(self, answer: str, content: str) -> tuple[str, bool]:
        """The answer up to the first end token behind its content, and whether there is one."""
        found = answer.find(content)
        behind = found + len(content) if found >= 0 else 0
        names = [str(name) for name in self.tokenizer.convert_ids_to_tokens(self.ends)]
        ends = [(answer.find(name, behind), name) for name in names if name in answer[behind:]]
        if not ends:
            return answer, False
        where, name = min(ends)
        return answer[: where + len(name)], True

    def check_keys_shown(self, at: int) -> None:
        """Refuse a turn of the assistant whose calls or reasoning the template drops."""
        message = self.messages[at]
        for key in CONTENT_KEYS:
            without = {k: v for k, v in message.items() if k != key}
            if message.get(key) and self._render(at + 1) == self._with(at, without):
                raise UnusableError(f"{key}: the model's chat template does not show it")

    def check_shown(self, count: int, *, open_turn: bool = False) -> None:
        """Refuse a conversation of which the template drops one of the first messages, or the tools.

        Not of the assistant: what becomes of its earlier turns is the template's to say.
        """
        text = self._render(count, open_turn=open_turn)
        squeezed = _squeezed(text)
        for i, message in enumerate(self.messages[:count]):
            if message["role"] == "assistant" or _squeezed(message["content"]) in squeezed:
                continue
            if text == self._with(i, {**message, "content": message["content"] + MARK}, count, open_turn=open_turn):
                raise UnusableError(f"message {i} ({message['role']}): the model's chat template does not show it")
        if self.tools and text == render(self.tokenizer, self.messages[:count], open_turn=open_turn):
            raise UnusableError("tools: the model's chat template does not show them")

    def _render(self, count: int, *, open_turn: bool = False) -> str:
        """The first `count` messages."""
        return render(self.tokenizer, self.messages[:count], tools=self.tools, open_turn=open_turn)

    def _with(self, at: int, message: Message, count: int | None = None, *, open_turn: bool = False) -> str:
        """The first messages with another one in place of number `at`."""
        messages = [*self.messages[:at], message, *self.messages[at + 1 : count or at + 1]]
        return render(self.tokenizer, messages, tools=self.tools, open_turn=open_turn)


def continue_thought(thought: str, answer: str) -> str:
    r"""What is sampled behind a prompt that ends with `thought`, if the answer is to be `answer`.

    >>> continue_thought("<think>\n", "<think>\nwhy\n</think>\n\nYes.")  # the answer has the thought that is opened
    'why\n</think>\n\nYes.'
    >>> continue_thought("<think>\n", "Yes.")  # it has none: an empty one
    '\n</think>\n\nYes.'
    >>> continue_thought("<think>\n\n</think>\n\n", "Yes.")  # the prompt has closed it
    'Yes.'
    """
    tags = THOUGHT.search(thought)
    opened = tags["opened"] if tags and not tags["closed"] else None
    if opened is None:
        return answer
    line_break = "\n" if thought.endswith("\n") else ""
    if answer.lstrip().startswith(f"<{opened}>"):
        return answer.lstrip().removeprefix(f"<{opened}>").removeprefix(line_break)
    if f"</{opened}>" in answer:  # it begins within the thought
        return answer.lstrip()
    return f"{line_break}</{opened}>\n\n{answer}"


# ------------------------------------------------------------------------------------------------------ the template


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    open_turn: bool = False,
) -> str:
    """The text that the chat template makes of messages: the one call of it.

    Raises:
        UnusableError: the template refuses them.
    """
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


def control_tokens_of(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The control tokens of a tokenizer with its chat template."""
    named = tuple(str(value) for value in tokenizer.special_tokens_map.values())
    return _control_of(tokenizer, str(tokenizer.chat_template), tuple(end_tokens(tokenizer)), named)


@lru_cache(maxsize=16)
def _control_of(
    tokenizer: PreTrainedTokenizerBase, template: str, ends: tuple[int, ...], _named: tuple[str, ...]
) -> Tokens:
    def rendered(messages: Sequence[Message], open_turn: bool) -> str:
        return render(tokenizer, messages, open_turn=open_turn) if template != "None" else ""

    return control_tokens(tokenizer, ends, rendered)


@dataclass(frozen=True)
class _Frame:
    """What a template writes between a question and its answer, and behind an answer."""

    opening: str
    closing: str
    thought: str  # the end of the opening that opens a thought, or opens and closes it; "" without one


def _frame(tokenizer: PreTrainedTokenizerBase) -> _Frame:
    return _frame_of(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=16)
def _frame_of(tokenizer: PreTrainedTokenizerBase, _template: str) -> _Frame:
    asked, answered = {"role": "user", "content": MARK}, {"role": "assistant", "content": MARK}
    opening = render(tokenizer, [asked], open_turn=True).rpartition(MARK)[2]
    *_, answer_opening, closing = render(tokenizer, [asked, answered]).split(MARK)
    tags, in_answer = THOUGHT.search(opening), THOUGHT.search(answer_opening)
    if tags is None or (in_answer and tags["opened"] and not in_answer["closed"] and tags[0] == in_answer[0]):
        return _Frame(opening, closing, "")  # a tag that answers are in as well: the mark of a role
    return _Frame(opening, closing, tags[0])


# ---------------------------------------------------------------------------------------------------- system messages


def takes_system_message(tokenizer: PreTrainedTokenizerBase, role: str = "system") -> bool:
    """Whether the chat template shows a system message: some refuse it, and some pass over it in silence."""
    return _takes_system_message(tokenizer, role, str(tokenizer.chat_template))


@lru_cache(maxsize=32)
def _takes_system_message(tokenizer: PreTrainedTokenizerBase, role: str, _template: str) -> bool:
    try:
        return MARK in render(tokenizer, [{"role": role, "content": MARK}, {"role": "user", "content": "a"}])
    except UnusableError:
        return False


def moves_system_messages(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a conversation had a system message that its template does not take."""
    return getattr(tokenizer, _MOVED, False)


def _place_system_message(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Sequence[Message]:
    """The messages, with a system message that the template does not take in front of the user's first."""
    roles = [message["role"] for message in messages[:2]]
    if len(roles) < 2 or roles[0] not in ("system", "developer") or roles[1] != "user":
        return messages
    if takes_system_message(tokenizer, roles[0]):
        return messages
    setattr(tokenizer, _MOVED, True)
    system, user, *others = messages
    texts = [text for text in (system["content"], user["content"]) if text.strip()]
    return [{**user, "content": "\n\n".join(texts)}, *others]


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    different = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(different, min(len(one), len(other)))


def _squeezed(text: str) -> str:
    """Without white space, which templates trim."""
    return "".join(text.split())
