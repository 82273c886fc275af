"""Which tokens a conversation becomes, and which of them count, token by token."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rlhf.chat import decode, encode_conversation, encode_prompt, end_tokens
from rlhf.embedded.make import ASSISTANT, END, SYSTEM, USER, character_tokenizer
from rlhf.errors import UserError


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def characters() -> PreTrainedTokenizerFast:
    return character_tokenizer()


def words(*tokens: str, template: str, bos: str | None = None, eos: str | None = "<e>") -> PreTrainedTokenizerFast:
    """A byte-level-free BPE over single characters, with "nn" as its only merge, and a beginning it adds by itself."""
    special = ["<s>", "<e>", "<|im_end|>", "<u>", "<a>"]
    vocabulary = {token: i for i, token in enumerate([*special, *"abcdefgn", "nn", *tokens])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("n", "n")]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, bos_token=bos, chat_template=template)


PLAIN = (
    "{% for m in messages %}{{ '<u>' if m.role == 'user' else '<a>' }}{{ m.content }}<e>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def text_of(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids)


def test_one_turn(characters) -> None:
    """The prompt ends with the opening of the assistant's turn; all of the answer counts, its end token too."""
    encoded = encode_conversation(characters, [user("Hi"), assistant("<think>a</think>b")])
    assert text_of(characters, encoded.prompt) == [USER, "H", "i", END, ASSISTANT]
    assert text_of(characters, encoded.completion) == ["<think>", "a", "</think>", "b", END]
    assert encoded.counts == [True] * 5


TURNS = [user("a"), assistant("bc"), user("d"), assistant("e\nf")]


def test_several_turns(characters) -> None:
    """Of what follows the first answer, the user's turn and the openings do not count."""
    encoded = encode_conversation(characters, TURNS)
    assert text_of(characters, encoded.prompt) == [USER, "a", END, ASSISTANT]
    assert text_of(characters, encoded.completion) == ["b", "c", END, USER, "d", END, ASSISTANT, "e", "\n", "f", END]
    assert [int(c) for c in encoded.counts] == [1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]


def test_last_turn_only(characters) -> None:
    encoded = encode_conversation(characters, TURNS, last_turn_only=True)
    assert text_of(characters, encoded.prompt) == [USER, "a", END, ASSISTANT, "b", "c", END, USER, "d", END, ASSISTANT]
    assert text_of(characters, encoded.completion) == ["e", "\n", "f", END]
    assert encoded.counts == [True] * 4


@pytest.mark.parametrize("last_turn_only", [False, True])
def test_training_sees_what_sampling_saw(characters, last_turn_only: bool) -> None:
    """Prompt and completion are cut where sampling starts."""
    first = len(TURNS) - 1 if last_turn_only else 1
    encoded = encode_conversation(characters, TURNS, last_turn_only=last_turn_only)
    assert encoded.prompt == encode_prompt(characters, TURNS[:first])


def test_the_boundary_is_not_merged_over() -> None:
    """Tokenized as one text, "n" + "na" is "nn", "a": the prompt would lose a token that sampling had seen."""
    template = PLAIN.replace("'<a>' }}", "'<a>n' }}").replace("%}<a>{%", "%}<a>n{%")
    tokenizer = words(template=template)
    conversation = [user("b"), assistant("na")]
    whole = tokenizer.encode(tokenizer.apply_chat_template(conversation, tokenize=False), add_special_tokens=False)
    assert text_of(tokenizer, whole) == ["<u>", "b", "<e>", "<a>", "nn", "a", "<e>"]
    encoded = encode_conversation(tokenizer, conversation)
    assert encoded.prompt == encode_prompt(tokenizer, conversation[:1])
    assert text_of(tokenizer, encoded.prompt) == ["<u>", "b", "<e>", "<a>", "n"]
    assert text_of(tokenizer, encoded.completion) == ["n", "a", "<e>"]


def test_pad_that_is_eos_still_counts(characters) -> None:
    """Masking "pad" tokens would mask the real end, and the model would never learn to stop."""
    characters.pad_token = END
    try:
        encoded = encode_conversation(characters, [user("a"), assistant("b")])
    finally:
        characters.pad_token = "<|pad|>"
    assert text_of(characters, encoded.completion) == ["b", END]
    assert encoded.counts == [True, True]


def test_no_second_beginning() -> None:
    """The template writes <s>, and the tokenizer would add one more to any text."""
    tokenizer = words(template="<s>" + PLAIN, bos="<s>")
    assert text_of(tokenizer, tokenizer("ab")["input_ids"]) == ["<s>", "a", "b"], "or this tests nothing"
    assert text_of(tokenizer, encode_prompt(tokenizer, [user("b")])) == ["<s>", "<u>", "b", "<e>", "<a>"]
    encoded = encode_conversation(tokenizer, [user("b"), assistant("c"), user("d"), assistant("e")])
    assert [*encoded.prompt, *encoded.completion].count(tokenizer.bos_token_id) == 1


def test_what_a_template_puts_behind_the_end_does_not_count() -> None:
    """ChatML: <|im_end|> ends the turn, not eos, and "n" (for a line break) comes behind it."""
    template = PLAIN.replace("<e>", "<|im_end|>n")
    tokenizer = words(template=template)
    ends = end_tokens(tokenizer)
    assert text_of(tokenizer, ends) == ["<e>", "<|im_end|>"]
    encoded = encode_conversation(tokenizer, [user("a"), assistant("b"), user("c"), assistant("d")])
    assert text_of(tokenizer, encoded.completion) == [
        "b", "<|im_end|>", "n", "<u>", "c", "<|im_end|>", "n", "<a>", "d", "<|im_end|>",
    ]  # fmt: skip
    assert [int(c) for c in encoded.counts] == [1, 1, 0, 0, 0, 0, 0, 0, 1, 1]


def test_a_template_without_an_end_gets_one() -> None:
    tokenizer = words(template=PLAIN.replace("<e>", ""))
    encoded = encode_conversation(tokenizer, [user("a"), assistant("b")])
    assert text_of(tokenizer, encoded.completion) == ["b", "<e>"]
    assert encoded.counts == [True, True]


def test_end_tokens_of_the_embedded_model(characters) -> None:
    """Token for token: eos is also the template's end, and stands there once."""
    assert text_of(characters, end_tokens(characters)) == [END]


def test_system_message(characters) -> None:
    messages = [{"role": "system", "content": "s"}, user("a")]
    assert text_of(characters, encode_prompt(characters, messages)) == [SYSTEM, "s", END, USER, "a", END, ASSISTANT]


def test_decode_drops_the_end_and_nothing_else(characters) -> None:
    text = "<think>a b\nc  d</think><answer>e</answer>"
    encoded = encode_conversation(characters, [user("a"), assistant(text)])
    assert decode(characters, encoded.completion) == text
    assert decode(characters, encoded.completion[:-1]) == text, "a truncated completion"


@pytest.mark.parametrize("messages", [[user("a")], [], [user("a"), assistant("b"), user("c")]])
def test_a_conversation_must_end_with_the_assistant(characters, messages) -> None:
    with pytest.raises(ValueError, match="end with a message of the assistant"):
        encode_conversation(characters, messages)


def test_templates_that_rewrite_history() -> None:
    """This one shows only the last answer in full, as templates that drop earlier thinking do."""
    template = (
        "{% for m in messages %}{{ '<u>' if m.role == 'user' else '<a>' }}"
        "{{ m.content if loop.last or m.role == 'user' else 'g' }}<e>{% endfor %}"
        "{% if add_generation_prompt %}<a>{% endif %}"
    )
    tokenizer = words(template=template)
    with pytest.raises(UserError, match="rewrites earlier turns"):
        encode_conversation(tokenizer, [user("a"), assistant("b"), user("c"), assistant("d")])
    encoded = encode_conversation(
        tokenizer, [user("a"), assistant("b"), user("c"), assistant("d")], last_turn_only=True
    )
    assert text_of(tokenizer, encoded.completion) == ["d", "<e>"]
    assert "g" in text_of(tokenizer, encoded.prompt)


def test_a_template_that_refuses() -> None:
    tokenizer = words(template="{{ raise_exception('no system role') }}")
    with pytest.raises(UserError, match="no system role"):
        encode_prompt(tokenizer, [user("a")])
