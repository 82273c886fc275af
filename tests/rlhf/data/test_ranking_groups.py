"""Rankings to groups within max_length: what is cut is said, what cannot be used has its reason."""

import pytest

from rlhf.data.answers import Answer, vocabulary_of
from rlhf.data.preferences import Ranking
from rlhf.data.ranking_groups import Fitted, describe_cuts, shared_prompt, to_group
from rlhf.data.rows import TooLong
from rlhf.groups import Group
from rlhf.models.policy import load_tokenizer
from rlhf.text.chat import Conversation, decode, encode_prompt, end_tokens

USER = {"role": "user", "content": "2+2?"}
FOUR, FIVE = ({"role": "assistant", "content": c} for c in "45")
AGAIN = {"role": "user", "content": "Sure?"}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


def ranking(*answers: str, prompt: str = "abcdefgh") -> Ranking:
    return Ranking(
        [{"role": "user", "content": prompt}], [[{"role": "assistant", "content": a}] for a in answers], None
    )


def test_group(tokenizer):
    """The prompt as sampling sees it; each answer with its end token, all of it counting."""
    fitted = to_group(tokenizer, ranking("xyz", "w"), max_length=100, truncation="keep_end")
    group = fitted.group
    assert group.prompt == encode_prompt(tokenizer, [{"role": "user", "content": "abcdefgh"}])
    assert [decode(tokenizer, c) for c in group.completions] == ["xyz", "w"]
    assert all(c[-1] in end_tokens(tokenizer) for c in group.completions)
    assert group.loss_mask == [[True] * 4, [True] * 2]
    assert (fitted.answers_cut, fitted.prompt_cut) == (0, False)


def test_answers_of_several_turns_count_without_what_the_user_says(tokenizer):
    conversation, limits = [FOUR, AGAIN, FIVE], {"max_length": 100, "truncation": "keep_end"}
    group = to_group(tokenizer, Ranking([USER], [conversation, [FIVE]], None), **limits).group
    counted = [t for t, c in zip(group.completions[0], group.loss_mask[0], strict=True) if c]
    assert decode(tokenizer, counted) == "45"
    assert len(counted) == 4, "both end tokens"
    later = to_group(tokenizer, Ranking([USER, FIVE, AGAIN], [conversation, [FIVE]], None), **limits).group
    assert "Sure?" in tokenizer.decode(later.prompt)
    assert later.completions == group.completions


def test_keep_end_shortens_the_prompt_and_never_an_answer(tokenizer):
    whole = to_group(tokenizer, ranking("xyz", "xyw"), max_length=100, truncation="keep_end").group
    room = len(whole.prompt) + 4
    exactly = to_group(tokenizer, ranking("xyz", "xyw"), max_length=room, truncation="keep_end")
    assert exactly == Fitted(whole)
    short = to_group(tokenizer, ranking("xyz", "xyw"), max_length=room - 3, truncation="keep_end")
    assert short == Fitted(Group(whole.prompt[3:], whole.completions, whole.loss_mask), prompt_cut=True)
    least = to_group(tokenizer, ranking("xyz", "xyw"), max_length=5, truncation="keep_end").group
    assert (least.prompt, least.completions) == (whole.prompt[-1:], whole.completions)
    with pytest.raises(TooLong, match="takes 5 tokens, max_length is 4"):
        to_group(tokenizer, ranking("xyz", "xyw"), max_length=4, truncation="keep_end")


def test_keep_start_cuts_the_answers_and_puts_no_end_in_their_place(tokenizer):
    whole = to_group(tokenizer, ranking("xyz", "xyw"), max_length=100, truncation="keep_start").group
    room = len(whole.prompt) + 4
    cut = to_group(tokenizer, ranking("xyz", "xyw"), max_length=room - 1, truncation="keep_start")
    assert cut.group.prompt == whole.prompt
    assert [decode(tokenizer, c) for c in cut.group.completions] == ["xyz", "xyw"]
    assert not any(c[-1] in end_tokens(tokenizer) for c in cut.group.completions)
    assert (cut.answers_cut, cut.prompt_cut) == (2, False)
    one = to_group(tokenizer, ranking("xyzv", "w"), max_length=room, truncation="keep_start")
    assert ([len(c) for c in one.group.completions], one.answers_cut) == ([4, 2], 1)


def test_answers_that_differ_behind_the_cut_name_the_length_that_shows_it(tokenizer):
    prompt = len(to_group(tokenizer, ranking("xyz", "xyw"), max_length=100, truncation="keep_start").group.prompt)
    for length in (prompt - 3, prompt, prompt + 1, prompt + 2):
        with pytest.raises(TooLong) as caught:
            to_group(tokenizer, ranking("xyz", "xyw"), max_length=length, truncation="keep_start")
        assert caught.value.needs == prompt + 3
        to_group(tokenizer, ranking("xyz", "xyw"), max_length=caught.value.needs, truncation="keep_start")
    turns = Ranking([USER], [[FOUR, AGAIN, FIVE], [FOUR, USER, FIVE]], None)  # cut within what the user says
    before = len(to_group(tokenizer, turns, max_length=200, truncation="keep_start").group.prompt)
    longest = max(map(len, to_group(tokenizer, turns, max_length=200, truncation="keep_start").group.completions))
    with pytest.raises(TooLong):
        to_group(tokenizer, turns, max_length=before + longest - 3, truncation="keep_start")


@pytest.mark.parametrize("truncation", ["keep_start", "keep_end"])
def test_unknown_tokens_are_the_reason_and_not_the_length(tokenizer, truncation):
    with pytest.raises(ValueError, match="does not know"):
        to_group(tokenizer, ranking("\u4f60\u597d", "\u518d\u89c1"), max_length=100, truncation=truncation)
    with pytest.raises(ValueError, match="does not know"):
        to_group(tokenizer, ranking("a", "b", prompt="\u4f60\u597d" * 20), max_length=100, truncation=truncation)


def test_a_single_answer(tokenizer):
    for truncation in ("keep_start", "keep_end"):
        group = to_group(tokenizer, ranking("xyz"), max_length=100, truncation=truncation).group
        assert [decode(tokenizer, c) for c in group.completions] == ["xyz"]


def test_sampled_answers_keep_their_tokens_and_get_no_end(tokenizer):
    """Tokens in an order that no tokenizer would give; a cut one ends where it was cut."""
    x, y, end = tokenizer.encode("x")[0], tokenizer.encode("y")[0], end_tokens(tokenizer)[0]
    vocabulary = vocabulary_of(tokenizer)
    own = Ranking.of_answers(
        [USER], [Answer("xy", (y, x, end), True, vocabulary), Answer("xy", (x, y), False, vocabulary)]
    )
    for truncation in ("keep_start", "keep_end"):
        group = to_group(tokenizer, own, max_length=100, truncation=truncation).group
        assert group.completions == [[y, x, end], [x, y]]
        assert group.loss_mask == [[True] * 3, [True] * 2]
        assert group.prompt == encode_prompt(tokenizer, [USER])


def test_take_takes_messages_and_answers_alike():
    three = Ranking.of_answers([USER], [Answer(t) for t in "abc"], 1.0)
    ends = three.take(slice(None, None, 2))
    assert [m[0]["content"] for m in ends.completions] == [a.text for a in ends.answers] == ["a", "c"]
    assert (ends.prompt, ends.margin) == ([USER], 1.0)


def test_prompts_that_end_differently_share_their_beginning():
    """Prompts 1 2 3 and 1 2 4: the third token belongs to the completions, and does not count."""
    encoded = [Conversation([1, 2, 3], [5, 6], [True, True]), Conversation([1, 2, 4], [7], [True])]
    assert shared_prompt(encoded) == ([1, 2], [[3, 5, 6], [4, 7]], [[False, True, True], [False, True]])
    assert shared_prompt([Conversation([1, 2], [5], [True]), Conversation([1, 2, 4], [7], [True])]) == (
        [1, 2],
        [[5], [4, 7]],
        [[True], [False, True]],
    )


def test_what_is_cut_is_said():
    group, said = Group([1], [[2], [3]]), list[str]()
    describe_cuts([Fitted(group)] * 3, max_length=9, say=said.append)
    assert said == []
    describe_cuts([Fitted(group, 2), Fitted(group, 1), Fitted(group, prompt_cut=True)], max_length=9, say=said.append)
    assert [text[:41] for text in said] == [
        "data: 3 answers are cut at max_length 9 a",
        "data: 1 prompts lose their start to fit i",
    ]
