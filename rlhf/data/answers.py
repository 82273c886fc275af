"""What a policy wrote, kept as it was sampled: the token ids, and whether it ended or was cut off at the limit.

Text that is tokenized again may come out as other tokens, and with an end token that the policy never said: a model
that learns from it learns to stop in the middle, and a reward model judges an ending that is not there. So the tokens
travel with the text, to whoever has the same tokenizer. Anybody else tokenizes the text, and leaves the end token out
where it was not said.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from rlhf.data.columns import cell_truth, is_missing, short
from rlhf.errors import UnusableError
from rlhf.text.chat import Conversation, Message, decode, encode_conversation, encode_prompt, end_tokens

PAD = "<|pad|>"  # added to the tokenizers of reward models, see `rlhf.models.heads`; nobody says it


@dataclass(frozen=True)
class Answer:
    """A completion. One that nobody sampled here (the text of a file) has no tokens, and has ended."""

    text: str
    tokens: tuple[int, ...] = ()  # as sampled, with the end token if it was said
    ended: bool = True  # False: cut off, at max_new_tokens or behind </answer>
    vocabulary: str = ""  # whose ids the tokens are, see `vocabulary_of`


def text_of(answer: Answer | str) -> str:
    return answer if isinstance(answer, str) else answer.text


def sampled_answer(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> Answer:
    """Of sampled tokens: it has ended if its last one is an end token.

    Embeddings often have more rows than the tokenizer has tokens. Ids with such a row among them are of no vocabulary:
    whoever reads the answer reads its text.
    """
    ended = bool(tokens) and tokens[-1] in end_tokens(tokenizer)
    known = all(token < len(tokenizer) for token in tokens)
    return Answer(decode(tokenizer, tokens), tuple(tokens), ended, vocabulary_of(tokenizer) if known else "")


def encode_answer(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: Answer | str
) -> Conversation:
    """An answer behind the conversation that it was given to; every token of it counts.

    An answer that was cut off before its first letter keeps the end token, since a token has to be there.

    Raises:
        UserError: the template refuses it.
    """
    answer = Answer(answer) if isinstance(answer, str) else answer
    if answer.tokens and answer.vocabulary == vocabulary_of(tokenizer):
        tokens = list(answer.tokens)
        if odd := [i for i in tokens if not 0 <= i < len(tokenizer)]:
            raise UnusableError(f"tokens: {short(odd[0])} is no token of the tokenizer, which has {len(tokenizer)}")
        return Conversation(encode_prompt(tokenizer, messages), tokens, [True] * len(tokens))
    encoded = encode_conversation(
        tokenizer, [*messages, {"role": "assistant", "content": answer.text}], last_turn_only=True
    )
    if answer.ended:
        return encoded
    said = len(encoded.completion) - (encoded.completion[-1] in end_tokens(tokenizer)) or 1
    return Conversation(encoded.prompt, encoded.completion[:said], encoded.loss_mask[:said])


_vocabularies: WeakKeyDictionary[PreTrainedTokenizerBase, str] = WeakKeyDictionary()


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of a tokenizer's ids and chat template: where it is equal, sampled tokens mean the same."""
    if tokenizer not in _vocabularies:
        ids = {token: i for token, i in tokenizer.get_vocab().items() if token != PAD}
        told = [sorted(ids.items()), str(tokenizer.chat_template)]
        _vocabularies[tokenizer] = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    return _vocabularies[tokenizer]


# In files: beside the texts, in their order, the columns `ended`, `tokens` and `vocabulary`.


def to_columns(answers: Sequence[Answer]) -> dict[str, Any]:
    """The columns that `from_columns` reads."""
    columns: dict[str, Any] = {"ended": [answer.ended for answer in answers]}
    if len({answer.vocabulary for answer in answers}) == 1 and all(answer.tokens for answer in answers):
        columns |= {"tokens": [list(answer.tokens) for answer in answers], "vocabulary": answers[0].vocabulary}
    return columns


def from_columns(row: Mapping[str, Any], texts: Sequence[str]) -> list[Answer]:
    """The answers of a row; plain texts where it has no such columns. A single answer may have a single `ended`.

    Raises:
        ValueError: there are not as many as answers, or they are of another form.
    """
    ended = [True] * len(texts) if is_missing(row.get("ended")) else row["ended"]
    ended = ended if isinstance(ended, list) else [ended]
    if len(ended) != len(texts):
        raise ValueError(f"ended: wanted {len(texts)} of true or false, one for each answer, found {short(ended)}")
    said = [cell_truth(end, "ended") for end in ended]
    vocabulary, tokens = row.get("vocabulary"), row.get("tokens")
    if not isinstance(vocabulary, str) or is_missing(tokens):
        return [Answer(text, ended=end) for text, end in zip(texts, said, strict=True)]
    whole = isinstance(tokens, list) and len(tokens) == len(texts)
    if not whole or not all(isinstance(own, list) and own and all(type(i) is int for i in own) for own in tokens):
        raise ValueError(f"tokens: wanted {len(texts)} lists of token ids, found {short(tokens)}")
    return [Answer(text, tuple(own), end, vocabulary) for text, own, end in zip(texts, tokens, said, strict=True)]
