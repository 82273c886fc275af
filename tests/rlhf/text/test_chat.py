"""Which tokens a conversation becomes, and which of them count, token by token."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rlhf.embedded.make import ASSISTANT, END, SYSTEM, USER, character_tokenizer
from rlhf.errors import UnusableError, UserError
from rlhf.text.chat import (
    decode,
    encode_conversation,
    encode_prompt,
    encode_turns,
    end_tokens,
    refuse_unknown,
    refuse_unknown_prompts,
)
from rlhf.text.dialogue import moves_system_messages


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
    assert encoded.loss_mask == [True] * 5


TURNS = [user("a"), assistant("bc"), user("d"), assistant("e\nf")]


def test_several_turns(characters) -> None:
    """Of what follows the first answer, the user's turn and the openings do not count."""
    encoded = encode_conversation(characters, TURNS)
    assert text_of(characters, encoded.prompt) == [USER, "a", END, ASSISTANT]
    assert text_of(characters, encoded.completion) == ["b", "c", END, USER, "d", END, ASSISTANT, "e", "\n", "f", END]
    assert [int(c) for c in encoded.loss_mask] == [1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]


def test_last_turn_only(characters) -> None:
    encoded = encode_conversation(characters, TURNS, last_turn_only=True)
    assert text_of(characters, encoded.prompt) == [USER, "a", END, ASSISTANT, "b", "c", END, USER, "d", END, ASSISTANT]
    assert text_of(characters, encoded.completion) == ["e", "\n", "f", END]
    assert encoded.loss_mask == [True] * 4


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
    assert encoded.loss_mask == [True, True]


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
    assert [int(c) for c in encoded.loss_mask] == [1, 1, 0, 0, 0, 0, 0, 0, 1, 1]


def test_a_template_without_an_end_gets_one() -> None:
    tokenizer = words(template=PLAIN.replace("<e>", ""))
    encoded = encode_conversation(tokenizer, [user("a"), assistant("b")])
    assert text_of(tokenizer, encoded.completion) == ["b", "<e>"]
    assert encoded.loss_mask == [True, True]


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


FORGETS = (  # shows only the last answer in full, as templates that drop earlier thinking do
    "{% for m in messages %}{{ '<u>' if m.role == 'user' else '<a>' }}"
    "{{ m.content if loop.last or m.role == 'user' else 'g' }}<e>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def test_templates_that_rewrite_history() -> None:
    """Several answers are not learned from one text; the last one is, behind what it would be sampled from."""
    tokenizer = words(template=FORGETS)
    talk = [user("a"), assistant("b"), user("c"), assistant("d")]
    with pytest.raises(UserError, match="rewrites earlier turns") as error:
        encode_conversation(tokenizer, talk)
    assert error.value.hint is None, "no option is named, which may have been given already"
    encoded = encode_conversation(tokenizer, talk, last_turn_only=True)
    assert text_of(tokenizer, encoded.completion) == ["d", "<e>"]
    assert "g" in text_of(tokenizer, encoded.prompt)


def test_each_answer_of_a_template_that_rewrites_history_has_a_text_of_its_own() -> None:
    tokenizer = words(template=FORGETS)
    talk = [user("a"), assistant("b"), user("c"), assistant("d")]
    first, second = encode_turns(tokenizer, talk)
    assert first == encode_conversation(tokenizer, talk[:2])
    assert second == encode_conversation(tokenizer, talk, last_turn_only=True)
    assert encode_turns(tokenizer, talk, last_turn_only=True) == [second]
    kept = words(template=PLAIN)
    assert encode_turns(kept, talk) == [encode_conversation(kept, talk)]


def test_each_answer_of_a_template_that_ends_no_turn_has_a_text_of_its_own() -> None:
    """The end token that it gets would stand in the prompt of the next answer, where sampling has none."""
    tokenizer = words(template=PLAIN.replace("<e>", ""))
    talk = [user("a"), assistant("b"), user("c"), assistant("d")]
    turns = encode_turns(tokenizer, talk)
    assert [text_of(tokenizer, turn.completion) for turn in turns] == [["b", "<e>"], ["d", "<e>"]]
    assert [turn.prompt for turn in turns] == [encode_prompt(tokenizer, talk[:n]) for n in (1, 3)]


ENDS_TWICE = PLAIN.replace("{% endif %}", "{% else %}<|im_end|>{% endif %}")


def test_an_end_behind_the_whole_conversation() -> None:
    """Phi-3's way. The end of all is in no later prompt, and is not learned."""
    tokenizer = words(template=ENDS_TWICE)
    encoded = encode_conversation(tokenizer, [user("a"), assistant("b"), user("c"), assistant("d")])
    assert text_of(tokenizer, encoded.prompt) == ["<u>", "a", "<e>", "<a>"]
    assert text_of(tokenizer, encoded.completion) == ["b", "<e>", "<u>", "c", "<e>", "<a>", "d", "<e>"]
    assert [int(counted) for counted in encoded.loss_mask] == [1, 1, 0, 0, 0, 0, 1, 1]


# The prompt opens a thought, "<t>"; of an answer, what stands before "</t>" is not shown.
OPENS = (
    "{% for m in messages %}"
    "{{ '<u>' + m.content if m.role == 'user' else '<a>' + m.content.split('</t>')[-1] + '<e>' }}"
    "{% endfor %}{% if add_generation_prompt %}<a><t>{% endif %}"
)


@pytest.mark.parametrize("last_turn_only", [False, True])
def test_a_prompt_that_opens_a_thought(last_turn_only: bool) -> None:
    """Generation sees <t>, so training does; an answer without a thought closes it at once."""
    tokenizer = thinking(OPENS)
    encoded = encode_conversation(tokenizer, [user("a"), assistant("b")], last_turn_only=last_turn_only)
    assert encoded.prompt == encode_prompt(tokenizer, [user("a")])
    assert text_of(tokenizer, encoded.prompt) == ["<u>", "a", "<a>", "<t>"]
    assert text_of(tokenizer, encoded.completion) == ["</t>", "b", "<e>"]
    assert encoded.loss_mask == [True] * 3


@pytest.mark.parametrize("answer", ["<t>b</t>c", "<t> b</t>c", "b</t>c"])
def test_an_answer_with_the_thought_that_the_prompt_opens(answer: str) -> None:
    """It is learned as it would be sampled, though the template shows only what follows the thought."""
    tokenizer = thinking(OPENS)
    encoded = encode_conversation(tokenizer, [user("a"), assistant(answer)])
    assert encoded.prompt == encode_prompt(tokenizer, [user("a")])
    assert tokenizer.decode(encoded.completion).replace(" ", "") == "b</t>c<e>"
    talk = [user("a"), assistant(answer), user("d"), assistant("<t>e</t>f")]
    first, second = encode_turns(tokenizer, talk)
    assert first == encoded
    assert second.prompt == encode_prompt(tokenizer, talk[:3])
    assert tokenizer.decode(second.completion) == "e</t>f<e>"


def thinking(template: str) -> PreTrainedTokenizerFast:
    tokenizer = words(template=template)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<t>", "</t>")])
    return tokenizer


def test_a_template_that_drops_part_of_the_answer() -> None:
    tokenizer = thinking(OPENS.replace("<a><t>", "<a>"))
    with pytest.raises(UserError, match="leaves out a part of the assistant's answer"):
        encode_conversation(tokenizer, [user("a"), assistant("<t>b</t>c")])


def test_a_template_that_changes_the_prompt_once_an_answer_follows() -> None:
    template = "{% for m in messages %}{{ m.content if loop.last else 'g' }}<e>{% endfor %}"
    tokenizer = words(template=template)
    for last_turn_only in (False, True):
        with pytest.raises(UserError, match=r"another way once an answer follows|does not show it"):
            encode_conversation(tokenizer, [user("a"), assistant("b")], last_turn_only=last_turn_only)


SYSTEM_MESSAGE = {"role": "system", "content": "b"}
NO_SYSTEM = [  # templates that refuse a system message, or pass over it in silence
    PLAIN.replace("{{ '<u>'", "{{ raise_exception('no system') if m.role == 'system' }}{{ '<u>'"),
    PLAIN.replace("{{ '<u>'", "{% if m.role != 'system' %}{{ '<u>'").replace("<e>{% endfor", "<e>{% endif %}{% endfor"),
]


@pytest.mark.parametrize("template", NO_SYSTEM)
def test_a_system_message_that_the_template_does_not_take_is_said_by_the_user(template: str) -> None:
    """Passed over in silence, it would be a setting that does nothing."""
    tokenizer = words("\n", template=template)
    assert not moves_system_messages(tokenizer)
    encoded = encode_conversation(tokenizer, [SYSTEM_MESSAGE, user("a"), assistant("c")])
    assert encoded == encode_conversation(tokenizer, [user("b\n\na"), assistant("c")])
    assert encoded.prompt == encode_prompt(tokenizer, [SYSTEM_MESSAGE, user("a")])
    assert moves_system_messages(tokenizer)


def test_a_system_message_that_the_template_takes_stays() -> None:
    tokenizer = words("\n", template=PLAIN)
    encode_prompt(tokenizer, [SYSTEM_MESSAGE, user("a")])
    assert not moves_system_messages(tokenizer)


def test_a_message_that_the_template_drops() -> None:
    tokenizer = words(template=NO_SYSTEM[1].replace("'system'", "'tool'"))
    talk = [user("a"), {"role": "tool", "content": "b"}]
    with pytest.raises(UserError, match=r"message 1 \(tool\): the model's chat template does not show it"):
        encode_prompt(tokenizer, talk)
    with pytest.raises(UserError, match=r"message 1 \(tool\)"):
        encode_conversation(tokenizer, [*talk, assistant("c")])
    shouts = words(template=PLAIN.replace("m.content", "(m.content | replace('b', 'g'))"))
    assert "g" in text_of(shouts, encode_prompt(shouts, [user("b")])), "shown in another way, but shown"


@pytest.mark.parametrize("key", ["tool_calls", "reasoning_content"])
def test_what_a_message_has_besides_its_content_is_shown_or_refused(key: str) -> None:
    more = {"role": "assistant", "content": "b", key: [{"name": "c"}] if key == "tool_calls" else "c"}
    talk = [user("a"), more]
    with pytest.raises(ValueError, match=f"{key}: the model's chat template does not show it"):
        encode_conversation(words(template=PLAIN), talk)
    shows = words(
        template=PLAIN.replace("{{ m.content }}", "{{ m.KEY | string if m.KEY }}{{ m.content }}").replace("KEY", key)
    )
    assert "c" in text_of(shows, encode_conversation(shows, talk).completion)
    earlier = [user("a"), more, user("d"), assistant("e")]
    with pytest.raises(ValueError, match=key):
        encode_conversation(words(template=PLAIN), earlier, last_turn_only=True)


def test_tools_are_shown_or_refused() -> None:
    tools = [{"name": "c"}]
    with pytest.raises(ValueError, match="tools: the model's chat template does not show them"):
        encode_prompt(words(template=PLAIN), [user("a")], tools=tools)
    shows = words(template="{{ tools[0].name if tools }}" + PLAIN)
    assert text_of(shows, encode_prompt(shows, [user("a")], tools=tools)) == ["c", "<u>", "a", "<e>", "<a>"]
    assert encode_conversation(shows, [user("a"), assistant("b")], tools=tools).prompt[0] == shows.vocab["c"]


def test_a_template_that_refuses() -> None:
    tokenizer = words(template="{{ raise_exception('no system role') }}")
    with pytest.raises(UserError, match="no system role"):
        encode_prompt(tokenizer, [user("a")])


@pytest.mark.parametrize(
    ("prompt", "answer", "reason"),
    [
        ("a" * 20, "b", None),
        ("a" * 20 + "\u4f60", "b", None),
        ("\u4f60\u597d", "b", "does not know 2 tokens of the prompt"),
        ("a" * 20, "b\u4f60", "does not know 1 of the 3 tokens of the answer"),
    ],
)
def test_unknown_tokens(characters, prompt: str, answer: str, reason: str | None) -> None:
    encoded = encode_conversation(characters, [user(prompt), assistant(answer)])
    if reason is None:
        refuse_unknown(characters, encoded)
    else:
        with pytest.raises(UnusableError, match=reason):
            refuse_unknown(characters, encoded)


def test_an_unknown_token_that_is_also_the_end_is_known() -> None:
    """GPT-2's only special token is its beginning, end and unknown token."""
    tokenizer = words(template=PLAIN)
    tokenizer.unk_token = "<e>"
    refuse_unknown(tokenizer, encode_conversation(tokenizer, [user("a"), assistant("b")]))


def test_prompts_of_unknown_tokens(characters) -> None:
    """Of 20 prompts one may be unreadable (5 %), and in each a tenth of the tokens."""
    readable = encode_prompt(characters, [user("a" * 17 + "\u4f60\u597d")])
    unreadable = encode_prompt(characters, [user("a" * 16 + "\u4f60\u597d\u4f60")])
    assert len(readable) == len(unreadable) == 22
    refuse_unknown_prompts(characters, [*[readable] * 19, unreadable])
    refuse_unknown_prompts(characters, [])
    with pytest.raises(UserError, match="more than a tenth of the tokens of 2 of 21 prompts"):
        refuse_unknown_prompts(characters, [*[readable] * 19, unreadable, unreadable])


def test_a_role_that_is_marked_by_a_tag_opens_no_thought() -> None:
    """`<a>` ends the prompt, and answers are in it."""
    tokenizer = thinking(PLAIN.replace("m.content", "m.content.split('</t>')[-1]"))
    with pytest.raises(UserError, match="leaves out a part"):
        encode_conversation(tokenizer, [user("a"), assistant("<t>b</t>c")])
