"""Control tokens, and how text of the data is kept from becoming one.

A control token (the end of a turn, the mark of a role, the beginning of a text) means something because the chat
template wrote it. Its name inside a message is text: a question about `<|im_end|>`, or a web page that forges a
turn. Tokenizers do not know the difference, since they see the rendered conversation only. So the names are replaced by
stand-ins before the template sees the messages, and what stands behind a stand-in is tokenized as plain text.

Tags that come in pairs (`<think>`, `</think>`) are content: answers are made of them. They stay tokens.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.errors import UnusableError

STAND_INS = range(0x100000, 0x10FFFE)  # private use, plane 16: characters without a meaning
type Render = Callable[[Sequence[Mapping[str, Any]], bool], str]


@dataclass(frozen=True)
class Tokens:
    """The added tokens of a tokenizer, by their text."""

    control: Mapping[str, int]  # never made of data
    special: frozenset[str]  # those that `split_special_tokens` tokenizes as text
    control_pattern: re.Pattern[str]
    any_pattern: re.Pattern[str]  # control tokens and tags
    ids: frozenset[int] = field(repr=False)  # of the control tokens, without the unknown token


def control_tokens(tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], render: Render) -> Tokens:
    """Which tokens control a conversation of this tokenizer and its chat template.

    Control tokens are those that the tokenizer calls special, the end tokens, what the template writes around a
    message, and the first token with which it opens an answer; less pairs of tags that are none of the last three.
    `render(messages, open_turn)` is the chat template.
    """
    added = {str(token.content): (number, token.special) for number, token in tokenizer.added_tokens_decoder.items()}
    named = {str(value) for value in tokenizer.special_tokens_map.values() if isinstance(value, str)}
    structure = named | set(map(str, tokenizer.convert_ids_to_tokens(list(ends)))) | _around_messages(added, render)
    special = {text for text, (_, is_special) in added.items() if is_special}
    tags = {text for text in added if _partner(text) in added and not {text, _partner(text)} & structure}
    control = {text: added[text][0] for text in (special | structure) - tags if text in added}
    unknown = tokenizer.unk_token_id if tokenizer.unk_token_id not in ends else None
    return Tokens(
        control=control,
        special=frozenset(special),
        control_pattern=_any_of(control),
        any_pattern=_any_of(added),
        ids=frozenset(control.values()) - {unknown},
    )


def _partner(text: str) -> str:
    """The other tag of a pair, `</a>` of `<a>` and `[a]` of `[/a]`; "" of what is no tag."""
    match = re.fullmatch(r"([<\[])(/?)([A-Za-z][\w.:-]*)([>\]])", text)
    if match is None:
        return ""
    opening, slash, name, closing = match.groups()
    return f"{opening}{'' if slash else '/'}{name}{closing}"


def _around_messages(added: Mapping[str, Any], render: Render) -> set[str]:
    """The added tokens that the template writes around messages, and the first of the opening of an answer."""
    pattern, found = _any_of(added), set[str]()
    user, system = {"role": "user", "content": "a"}, {"role": "system", "content": "b"}
    for messages in ([user], [system, user]):
        try:
            closed, opened = pattern.findall(render(messages, False)), pattern.findall(render(messages, True))
        except UnusableError:  # a template without system messages
            continue
        found.update(closed)
        found.update([two for one, two in zip_longest(closed, opened) if two and one != two][:1])
    return found


def _any_of(texts: Mapping[str, Any]) -> re.Pattern[str]:
    """The longest first, as tokenizers match them."""
    alternatives = "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
    return re.compile(alternatives or r"(?!)")


class Shield:
    """Replaces the names of control tokens in texts, and tokenizes what was rendered from them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tokens: Tokens):
        self.tokenizer, self.tokens = tokenizer, tokens
        self.stand_in: dict[str, str] = {}  # by the name that it stands for

    def cover[T](self, value: T) -> T:
        """A value of JSON's kinds with stand-ins in all its texts."""
        names = set[str]()
        characters = set[str]()
        for text in texts_of(value):
            check_text(text)
            names.update(self.tokens.control_pattern.findall(text))
            characters.update(c for c in text if ord(c) in STAND_INS)
        if not names:
            return value
        free = (chr(code) for code in STAND_INS if chr(code) not in characters)
        self.stand_in = dict(zip(sorted(names), free, strict=False))
        return _map_texts(value, lambda text: self.tokens.control_pattern.sub(lambda m: self.stand_in[m[0]], text))

    def encode(self, text: str) -> list[int]:
        """Tokens of what the template rendered; behind a stand-in there is text."""
        if not any(character in text for character in self.stand_in.values()):
            tokens = self._tokenize(text)
        else:
            tokens, plain, at = [], "", 0
            pieces: list[str] = []
            for match in self.tokens.any_pattern.finditer(text):
                pieces += [text[at : match.start()], match[0]]
                at = match.end()
            for piece in [*pieces, text[at:]]:
                if any(character in piece for character in self.stand_in.values()):
                    tokens += [*self._tokenize(plain), *self._as_text(piece)]
                    plain = ""
                else:
                    plain += piece
            tokens += self._tokenize(plain)
        self._check(tokens, text)
        return tokens

    def _as_text(self, piece: str) -> list[int]:
        """Special tokens are tokenized as text by the library; others are cut behind their first character."""
        parts = [piece]
        for name, character in self.stand_in.items():
            if name in self.tokens.special:
                parts = [part.replace(character, name) for part in parts]
            else:
                cut = [part.split(character) for part in parts]
                parts = [
                    (name[1:] if i else "") + section + (name[0] if i < len(sections) - 1 else "")
                    for sections in cut
                    for i, section in enumerate(sections)
                ]
        return [token for part in parts for token in self._tokenize(part, split=True)]

    def _tokenize(self, text: str, *, split: bool = False) -> list[int]:
        if not text:
            return []
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=split)["input_ids"]

    def _check(self, tokens: Sequence[int], text: str) -> None:
        """Some tokenizers make a control token of other spellings too, or have no other tokens for its text."""
        written = Counter(self.tokens.control[name] for name in self.tokens.control_pattern.findall(text))
        made = Counter(token for token in tokens if token in self.tokens.ids)
        if forged := made - written:
            name = self.tokenizer.convert_ids_to_tokens(next(iter(forged)))
            raise UnusableError(f"a text would become the control token {name}")


def check_text(text: str) -> None:
    """Refuse half of a character.

    Raises:
        UnusableError: if the text holds a lone surrogate, as a cut emoji leaves one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnusableError(
            f"half a character (a lone surrogate) in {text[max(0, error.start - 20) :][:40]!r}"
        ) from error


def texts_of(value: object) -> list[str]:
    """All texts in a value of JSON's kinds, keys included; the role of a message is none."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for k, v in value.items() for text in ([str(k)] if k == "role" else [str(k), *texts_of(v)])]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts_of(item)]
    return []


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(str(k)): v if k == "role" else _map_texts(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(item, change) for item in value]
    return value
