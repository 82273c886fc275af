"""What a policy wrote goes on as it was sampled; what was cut off gets no end token that was never said."""

import pytest

from rlhf.data.answers import Answer, encode_answer, from_columns, sampled_answer, text_of, to_columns, vocabulary_of
from rlhf.models.policy import load_tokenizer
from rlhf.text.chat import encode_conversation, encode_prompt, end_tokens

ASKED = [{"role": "user", "content": "2+2?"}]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


def whole(tokenizer, text: str) -> list[int]:
    return encode_conversation(tokenizer, [*ASKED, {"role": "assistant", "content": text}]).completion


def test_an_answer_has_ended_if_its_last_token_says_so(tokenizer):
    tokens = whole(tokenizer, "It is 4")
    assert sampled_answer(tokenizer, tokens) == Answer("It is 4", tuple(tokens), True, vocabulary_of(tokenizer))
    assert sampled_answer(tokenizer, tokens[:-1]) == Answer(
        "It is 4", tuple(tokens[:-1]), False, vocabulary_of(tokenizer)
    )
    assert sampled_answer(tokenizer, tokens[-1:]).text == ""


def test_tokens_are_kept_where_the_tokenizer_is_the_same(tokenizer):
    """Also an order of tokens that the tokenizer would not give for the text."""
    odd = tuple(reversed(whole(tokenizer, "It is 4")[:-1]))
    encoded = encode_answer(tokenizer, ASKED, Answer("It is 4", odd, False, vocabulary_of(tokenizer)))
    assert (encoded.prompt, encoded.completion) == (encode_prompt(tokenizer, ASKED), list(odd))
    assert encoded.loss_mask == [True] * len(odd)


@pytest.mark.parametrize("odd", [10**9, -5])
def test_tokens_that_there_are_not_are_refused(tokenizer, odd):
    answer = Answer("It is 4", (5, odd), True, vocabulary_of(tokenizer))
    with pytest.raises(ValueError, match=f"tokens: {odd} is no token"):
        encode_answer(tokenizer, ASKED, answer)


def test_another_tokenizer_reads_the_text(tokenizer):
    """And leaves out the end token where it was not said."""
    ended, cut = (Answer("It is 4", (1, 2), end, "another") for end in (True, False))
    assert encode_answer(tokenizer, ASKED, ended).completion == whole(tokenizer, "It is 4")
    encoded = encode_answer(tokenizer, ASKED, cut)
    assert encoded.completion == whole(tokenizer, "It is 4")[:-1]
    assert len(encoded.loss_mask) == len(encoded.completion)
    assert not {*encoded.completion} & {*end_tokens(tokenizer)}


def test_plain_text_has_ended(tokenizer):
    assert encode_answer(tokenizer, ASKED, "It is 4").completion == whole(tokenizer, "It is 4")
    assert encode_answer(tokenizer, ASKED, Answer("It is 4")).completion == whole(tokenizer, "It is 4")
    assert text_of("x") == text_of(Answer("x")) == "x"


def test_cut_off_before_its_first_letter(tokenizer):
    """A token has to be there to be judged."""
    assert encode_answer(tokenizer, ASKED, Answer("", ended=False)).completion == end_tokens(tokenizer)[:1]


def test_what_was_sampled_and_ended_is_what_the_text_gives(tokenizer):
    """Of the embedded model, whose tokens are letters and tags: keeping tokens changes no result for these."""
    text = "<think>3+4=7\n7*2=14</think><answer>14</answer>"
    answer = sampled_answer(tokenizer, whole(tokenizer, text))
    assert answer.text == text
    assert encode_answer(tokenizer, ASKED, answer) == encode_answer(tokenizer, ASKED, text)


def test_vocabularies(tokenizer):
    """Equal for another copy, and with a pad token added, as reward models have; not with another template."""
    other = load_tokenizer("embedded")
    assert vocabulary_of(other) == vocabulary_of(tokenizer)
    padded = load_tokenizer("embedded")
    padded.add_special_tokens({"pad_token": "<|pad|>"})
    assert vocabulary_of(padded) == vocabulary_of(tokenizer)
    changed = load_tokenizer("embedded")
    changed.chat_template = str(changed.chat_template) + " "
    assert vocabulary_of(changed) != vocabulary_of(tokenizer)
    more = load_tokenizer("embedded")
    more.add_tokens(["another"])
    assert vocabulary_of(more) != vocabulary_of(tokenizer)


def test_columns_of_a_file():
    answers = [Answer("a", (1, 2), True, "v"), Answer("b", (3,), False, "v")]
    columns = to_columns(answers)
    assert columns == {"ended": [True, False], "tokens": [[1, 2], [3]], "vocabulary": "v"}
    assert from_columns(columns, ["a", "b"]) == answers
    assert to_columns([Answer("a"), Answer("b", ended=False)]) == {"ended": [True, False]}
    assert to_columns([Answer("a", (1,), True, "v"), Answer("b", (1,), True, "w")]) == {"ended": [True, True]}
    assert from_columns({}, ["a", "b"]) == [Answer("a"), Answer("b")]
    assert from_columns({"ended": False}, ["a"]) == [Answer("a", ended=False)]
    assert from_columns({"tokens": 12}, ["a"]) == [Answer("a")]  # a count, of whatever


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"ended": [True]}, "ended: wanted 2"),
        ({"ended": [True, "perhaps"]}, "ended: wanted true or false"),
        ({"tokens": [[1]], "vocabulary": "v"}, "tokens: wanted 2 lists"),
        ({"tokens": [[1], []], "vocabulary": "v"}, "tokens: wanted 2 lists"),
        ({"tokens": [[1], ["x"]], "vocabulary": "v"}, "tokens: wanted 2 lists"),
        ({"tokens": "12", "vocabulary": "v"}, "tokens: wanted 2 lists"),
    ],
)
def test_odd_columns(columns, words):
    with pytest.raises(ValueError, match=words):
        from_columns(columns, ["a", "b"])


def test_a_sampled_id_that_is_no_token_leaves_the_text(tokenizer) -> None:
    """Embeddings often have more rows than the tokenizer has tokens, and a row is sampled now and then."""
    text = whole(tokenizer, "It is 4")
    answer = sampled_answer(tokenizer, [*text[:-1], len(tokenizer) + 3, text[-1]])
    assert (answer.text, answer.ended, len(answer.tokens)) == ("It is 4", True, len(text) + 1)
    assert encode_answer(tokenizer, ASKED, answer).completion == text
    assert from_columns(to_columns([answer]), [answer.text])[0].vocabulary == ""
