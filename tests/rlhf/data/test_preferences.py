"""Rows of many shapes to rankings."""

import pytest

from rlhf.data.answers import Answer
from rlhf.data.preferences import Ranking, parse_labelled, parse_preference
from rlhf.data.prompts import read_prompt

USER = {"role": "user", "content": "2+2?"}
FOUR, FIVE = ({"role": "assistant", "content": c} for c in "45")
AGAIN = {"role": "user", "content": "Sure?"}


@pytest.mark.parametrize(
    ("row", "margin"),
    [
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, None),
        ({"prompt": [USER], "chosen": [FOUR], "rejected": [FIVE]}, None),
        ({"prompt": "2+2?", "chosen": [USER, FOUR], "rejected": [USER, FIVE]}, None),
        ({"chosen": [USER, FOUR], "rejected": [USER, FIVE]}, None),
        ({"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5"}, None),
        ({"prompt": "\n\nHuman: 2+2?\n\nAssistant:", "chosen": " 4".strip(), "rejected": "5"}, None),
        ({"instruction": "2+2?", "chosen_response": "4", "rejected_response": "5"}, None),
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5", "margin": 2}, 2.0),
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5", "score_chosen": 9.0, "score_rejected": 8.5}, 0.5),
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5", "chosen-rating": 5, "rejected-rating": 1}, 4.0),
        ({"prompt": "2+2?", "completions": ["4", "5"]}, None),
        ({"prompt": "2+2?", "completions": ["5", "4"], "scores": [1, 7]}, None),
        ({"question": "2+2?", "completions": [{"response": "5", "score": 1}, {"response": "4", "score": 2}]}, None),
        ({"prompt": "2+2?", "completions": ["5", "4", "6"], "scores": [1, 7, 1]}, None),
    ],
)  # fmt: skip
def test_shapes(row, margin):
    assert parse_preference(row) == Ranking([USER], [[FOUR], [FIVE]], margin)


def test_implicit_prompts_of_several_turns():
    """The prompt ends before an answer, wherever the sides part."""
    ranking = parse_preference({"chosen": [USER, FIVE, AGAIN, FOUR], "rejected": [USER, FIVE, AGAIN, FIVE]})
    assert ranking == Ranking([USER, FIVE, AGAIN], [[FOUR], [FIVE]], None)
    other = {"role": "user", "content": "Really?"}
    ranking = parse_preference({"chosen": [USER, FIVE, AGAIN, FOUR], "rejected": [USER, FIVE, other, FIVE]})
    assert ranking == Ranking([USER], [[FIVE, AGAIN, FOUR], [FIVE, other, FIVE]], None)
    assert ranking.question == "2+2?"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "wanted chosen and rejected"),
        ({"prompt": "q", "chosen": "4"}, "wanted chosen and rejected"),
        ({"prompt": "q", "chosen": "4", "rejected": "4 "}, "identical"),
        ({"prompt": "q", "chosen": " ", "rejected": "4"}, "chosen is empty"),
        ({"prompt": "q", "chosen": "4", "rejected": ""}, "rejected is empty"),
        ({"prompt": "", "chosen": "4", "rejected": "5"}, "prompt is empty"),
        ({"prompt": 7, "chosen": "4", "rejected": "5"}, "prompt: wanted text or a list"),
        ({"prompt": "q", "chosen": 4, "rejected": "5"}, "chosen: wanted text or a list"),
        ({"prompt": "q", "chosen": [{"role": "assistant"}], "rejected": "5"}, "role and content"),
        ({"prompt": "q", "chosen": [{"role": "assistant", "content": 4}], "rejected": "5"}, "role and content"),
        ({"prompt": "q", "chosen": [USER, FOUR], "rejected": "5"}, "not the prompt column's"),
        ({"prompt": [USER, FOUR], "chosen": "4", "rejected": "5"}, "ends with the assistant"),
        ({"chosen": "4", "rejected": "5"}, "no prompt column"),
        ({"chosen": [AGAIN, FOUR], "rejected": [USER, FIVE]}, "same prompt"),
        ({"chosen": [USER, FOUR], "rejected": [USER]}, "assistant|same prompt"),
        ({"prompt": "q", "chosen": "4", "rejected": "5", "margin": "big"}, "margin: wanted a number"),
        ({"prompt": "q", "chosen": "4", "rejected": "5", "margin": -1}, "would be the better"),
        (
            {"prompt": "q", "chosen": "4", "rejected": "5", "score_chosen": 1, "score_rejected": 2},
            "would be the better",
        ),
        ({"prompt": "q", "completions": ["4"]}, "two completions"),
        ({"prompt": "q", "completions": "45"}, "wanted a list"),
        ({"prompt": "q", "completions": ["4", "5"], "scores": [1]}, "list of 2 numbers"),
        ({"prompt": "q", "completions": ["4", "5"], "scores": [1, True]}, "wanted a number"),
        ({"prompt": "q", "completions": ["4", None]}, "completion 1"),
        ({"prompt": "q", "completions": [{"text": "4"}, {"other": "5"}]}, "completion 1: wanted text"),
        ({"prompt": "q", "completions": ["4", "5"], "scores": [1, "x"]}, "scores: wanted a number"),
        ({"prompt": "q", "completions": ["4", "5"], "ranks": [1, "x"]}, "ranks: wanted a number"),
        ({"prompt": "q", "completions": ["4", "5"], "scores": 3}, "scores: wanted a list of 2 numbers"),
        ({"prompt": "q", "chosen": [FOUR, AGAIN], "rejected": "5"}, "chosen does not begin and end with the assistant"),
        ({"prompt": "q", "chosen": "4", "rejected": [FOUR, AGAIN]}, "rejected does not begin and end"),
        ({"prompt": "q", "completions": ["4", "5", "4"]}, "completion 0 and completion 2 are identical"),
        ({"completions": ["4", "5"]}, "need a prompt"),
    ],
)
def test_odd_rows_are_refused_with_the_reason(row, reason):
    with pytest.raises(ValueError, match=reason):
        parse_preference(row)


# ---------------------------------------------------------------------------------- columns that change the meaning


def test_system_and_history_come_in_front():
    system, said = {"role": "system", "content": "Speak French."}, {"role": "assistant", "content": "Oui."}
    row = {"system": "Speak French.", "question": "2+2?", "chosen": "4", "rejected": "5"}
    assert parse_preference(row) == Ranking([system, USER], [[FOUR], [FIVE]], None)
    row["history"] = [["Sure?", "Oui."]]
    assert parse_preference(row).prompt == [system, AGAIN, said, USER]
    for own in ([USER, FOUR], [system, AGAIN, said, USER, FOUR]):  # where a side repeats the prompt, with or without
        assert parse_preference({**row, "chosen": own}) == Ranking([system, AGAIN, said, USER], [[FOUR], [FIVE]], None)
    row = {"system": "Speak French.", "chosen": [USER, FOUR], "rejected": [USER, FIVE]}
    assert parse_preference(row).prompt == [system, USER]
    row = {"history": [AGAIN, said], "prompt": "2+2?", "completions": ["5", "4"], "scores": [0, 1]}
    assert parse_preference(row) == Ranking([AGAIN, said, USER], [[FOUR], [FIVE]], None)


def test_an_input_belongs_to_its_instruction():
    row = {"instruction": "Add.", "input": "2 and 2", "chosen": "4", "rejected": "5"}
    assert parse_preference(row).question == "Add.\n\n2 and 2"
    with pytest.raises(ValueError, match="input belongs to an instruction"):
        parse_preference({"prompt": "Add.", "input": "2 and 2", "chosen": "4", "rejected": "5"})


@pytest.mark.parametrize(
    "column",
    [
        *({"tools": [{"name": "f"}]}, {"label": 0}, {"labels": [1, 0]}, {"weight": 0.5}, {"images": ["x"]}),
        *({"rank": 1}, {"context": "a page"}, {"reasoning_content": "so"}, {"functions": "f"}),
    ],
)
def test_what_is_not_used_is_refused(column):
    (name,) = column
    with pytest.raises(ValueError, match=f"{name} would be ignored"):
        parse_preference({"prompt": "q", "chosen": "4", "rejected": "5", **column})
    message = {"role": "user", "content": "q", **column}
    if name != "reasoning_content":  # which the template shows of a message, or the row is refused there
        with pytest.raises(ValueError, match=f"{name} would be ignored"):
            parse_preference({"prompt": [message], "chosen": "4", "rejected": "5"})


def test_ranks_order_completions():
    """1 is the best. Beside the completions, or in each."""
    for row in (
        {"completions": ["5", "4"], "ranks": [2, 1]},
        {"completions": ["5", "4"], "rank": ["2", "1"]},
        {"completions": [{"text": "5", "rank": 2}, {"text": "4", "rank": 1}]},
    ):
        assert parse_preference({"prompt": "2+2?", **row}) == Ranking([USER], [[FOUR], [FIVE]], None)
    with pytest.raises(ValueError, match="is_correct would be ignored"):
        parse_preference(
            {"prompt": "q", "completions": [{"text": "a", "is_correct": 1}, {"text": "b", "is_correct": 0}]}
        )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "q", "completions": ["a", "b"], "labels": [False, True]}, "no ranking.*train_orm.*train_prm"),
        ({"prompt": "q", "completions": ["a", "b"], "labels": [-1, 1]}, "no ranking.*train_orm.*train_prm"),
        ({"prompt": "q", "completion": "a", "label": True}, "--loss kto"),
        ({"messages": [USER, FOUR]}, "instruction_tuning"),
        ({"prompt": "q", "completion": "a"}, "instruction_tuning"),
        ({"question": "q", "answer": "4"}, "word_problems"),
    ],
)
def test_rows_of_another_kind_are_named(row, words):
    with pytest.raises(ValueError, match=words):
        parse_preference(row)


def test_numbers_of_a_table_are_text():
    row = {"prompt": "2+2?", "chosen": "4", "rejected": "5", "score_chosen": "9.5", "score_rejected": "9"}
    assert parse_preference(row).margin == 0.5
    assert parse_preference({**row, "score_chosen": None, "margin": "2"}).margin == 2


def test_labelled_answers():
    row = {"prompt": "2+2?", "completion": "4", "label": True}
    assert parse_labelled(row) == (Ranking([USER], [[FOUR]], None), True)
    assert parse_labelled({**row, "completion": [USER, FIVE], "label": "0"}) == (Ranking([USER], [[FIVE]], None), False)
    assert parse_labelled({**row, "system": "S"})[0].prompt == [{"role": "system", "content": "S"}, USER]
    for odd, words in (
        ({"label": 2}, "label: wanted true or false"),
        ({"label": None}, "label: wanted true or false"),
        ({"completion": " "}, "wanted prompt, completion and label"),
        ({"completion": None, "chosen": "4", "rejected": "5"}, "these look like pairs"),
        ({"weight": 3}, "weight would be ignored"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_labelled({**row, **odd})


def test_answers_as_they_were_sampled():
    """In the order of the ranking, whatever the order of the row."""
    row = {"prompt": "2+2?", "completions": ["5", "4"], "scores": [0, 1], "ended": [True, False]}
    assert parse_preference(row).answers == (Answer("4", ended=False), Answer("5"))
    row |= {"tokens": [[5, 0], [4]], "vocabulary": "v"}
    assert parse_preference(row).answers == (Answer("4", (4,), False, "v"), Answer("5", (5, 0), True, "v"))
    pair = {"prompt": "2+2?", "chosen": "4", "rejected": "5", "ended": [False, True]}
    assert parse_preference(pair).answers == (Answer("4", ended=False), Answer("5"))
    assert parse_labelled({"prompt": "q", "completion": "4", "label": 1, "ended": False})[0].answers[0].ended is False
    for odd in ({"ended": [True]}, {"ended": [True, 3]}, {"ended": False}):
        with pytest.raises(ValueError, match="ended"):
            parse_preference({**pair, **odd})
    with pytest.raises(ValueError, match="ended: is of answers of one message"):
        parse_preference({**pair, "chosen": [FOUR, AGAIN, FIVE]})


# --------------------------------------------------------------------------------------- details, each by hand


def test_a_ranking_of_what_a_policy_sampled():
    answers = [Answer("4", (7, 0), True, "v"), Answer("5", ended=False)]
    assert Ranking.of_answers([USER], answers, 0.5) == Ranking([USER], [[FOUR], [FIVE]], 0.5, tuple(answers))
    assert Ranking.of_answers([USER], answers).margin is None


def test_a_conversation_without_a_user_has_no_question():
    assert Ranking([{"role": "system", "content": "S"}], [[FOUR], [FIVE]], None).question == ""
    assert Ranking([{"role": "system", "content": "S"}, USER, FOUR, AGAIN], [[FOUR], [FIVE]], None).question == "2+2?"


def test_some_of_the_completions():
    answers = (Answer("4"), Answer("5"))
    ranking = Ranking([USER], [[FOUR], [FIVE]], 0.5, answers)
    assert ranking.take(slice(1)) == Ranking([USER], [[FOUR]], 0.5, answers[:1])
    assert ranking.take(slice(1, 2)) == Ranking([USER], [[FIVE]], 0.5, answers[1:])


def test_columns_of_sampling_are_of_single_messages():
    """Two messages are too many already, on either side."""
    pair = {"prompt": "2+2?", "chosen": "4", "rejected": "5", "ended": [True, True]}
    for side in ("chosen", "rejected"):
        with pytest.raises(ValueError, match="ended: is of answers of one message"):
            parse_preference({**pair, side: [FOUR, FIVE]})


def test_the_order_of_keys_says_nothing():
    """Of a call's own keys, whose order the reader keeps."""

    def asked(*names: str) -> dict:
        values = {"name": "add", "arguments": {"a": 2, "b": 2}}
        return {"role": "assistant", "content": "", "tool_calls": [{name: values[name] for name in names}]}

    result = {"role": "tool", "content": "4"}
    row = {
        "prompt": [USER, asked("name", "arguments"), result],
        "chosen": [USER, asked("arguments", "name"), result, FOUR],
        "rejected": "5",
    }
    assert parse_preference(row).completions == [[FOUR], [FIVE]]
    same = [{**asked(*names), "content": "x"} for names in (("name", "arguments"), ("arguments", "name"))]
    with pytest.raises(ValueError, match="identical"):
        parse_preference({"prompt": "2+2?", "chosen": [same[0]], "rejected": [same[1]]})


def test_what_surrounds_a_repeated_prompt_is_white_space():
    chosen = [{"role": "user", "content": " 2+2?\n"}, FOUR]
    assert parse_preference({"prompt": "2+2?", "chosen": chosen, "rejected": "5"}).completions == [[FOUR], [FIVE]]


@pytest.mark.parametrize(
    ("scores", "kept"),
    [([3, 1, 2], "acb"), ([1, 1, 0], "ac"), ([0, 2, 2], "ba"), ([-1, -2, -3], "abc"), ([1, 2, 3], "cba")],
)
def test_best_comes_first_and_the_first_of_equals_stays(scores, kept):
    row = {"prompt": "q", "completions": ["a", "b", "c"]}
    for given in ({"scores": scores}, {"ranks": [-score for score in scores]}):
        found = parse_preference({**row, **given}).completions
        assert "".join(it["content"] for (it,) in found) == kept
    marked = [{"content": text, "rating": score} for text, score in zip("abc", scores, strict=True)]
    found = parse_preference({"prompt": "q", "completions": marked}).completions
    assert "".join(it["content"] for (it,) in found) == kept


def test_a_score_a_completion_is_used_if_each_has_one():
    """Ranks that only some have are no ranks; a score that only one has ranks nothing, and the order stands."""
    half = [{"text": "4", "overall_score": 1}, {"text": "5"}]
    assert parse_preference({"prompt": "2+2?", "completions": half}) == Ranking([USER], [[FOUR], [FIVE]], None)
    with pytest.raises(ValueError, match="ranks: wanted a number"):
        parse_preference({"prompt": "2+2?", "completions": [{"text": "4", "rank": 1}, {"text": "5"}]})
    both = {"prompt": "2+2?", "completions": ["4", "5"], "scores": [2, 1], "ranks": [2, 1]}
    assert parse_preference(both).completions == [[FOUR], [FIVE]], "scores come before ranks"


def test_answers_that_are_left_out_take_their_columns_along():
    """Of equal scores the second goes, with its tokens."""
    row = {"prompt": "q", "completions": ["a", "b", "c"], "scores": [1, 1, 2], "ended": [True, False, False]}
    row |= {"tokens": [[1], [2], [3]], "vocabulary": "v"}
    assert parse_preference(row).answers == (Answer("c", (3,), False, "v"), Answer("a", (1,), True, "v"))


@pytest.mark.parametrize(
    "names",
    [
        ("score_chosen", "score_rejected"),
        ("chosen_score", "rejected_score"),
        ("chosen-rating", "rejected-rating"),
        ("chosen_rating", "rejected_rating"),
        ("chosen_avg_rating", "rejected_avg_rating"),
    ],
)
def test_a_margin_is_the_difference_of_two_columns(names):
    row = {"prompt": "2+2?", "chosen": "4", "rejected": "5", names[0]: 3, names[1]: 1}
    assert parse_preference(row).margin == 2
    assert parse_preference({**row, names[1]: 3}).margin == 0
    assert parse_preference({**row, "margin": 7}).margin == 7, "the column of that name comes first"
    assert parse_preference({**row, names[1]: None}).margin is None
    with pytest.raises(ValueError, match=f"{names[0]} - {names[1]} is -1"):
        parse_preference({**row, names[1]: 4})


def test_dialogues_of_text():
    """Neighbours of one speaker are joined; an empty opening of the answer goes; a colon inside a text is text."""
    chosen = "\n\nHuman: Hi\n\nHuman: 2+2?\n\nAssistant: See: 4\n\nAssistant: four"
    rejected = "\n\nHuman: Hi\n\nHuman: 2+2?\n\nAssistant: 5"
    found = parse_preference({"chosen": chosen, "rejected": rejected})
    assert found.prompt == [{"role": "user", "content": "Hi\n\n2+2?"}]
    assert found.completions == [[{"role": "assistant", "content": "See: 4\n\nfour"}], [FIVE]]
    answers = {"chosen": "4", "rejected": "5"}
    whole = parse_preference({"prompt": "Human: 2+2?\n\nAssistant: 4\n\nHuman: Sure?", "chosen": "4", "rejected": "5"})
    assert whole.prompt == [USER, FOUR, AGAIN]
    opened = parse_preference({"prompt": "Human: 2+2?\n\nAssistant: 4\n\nHuman: Sure?\n\nAssistant:", **answers})
    assert opened.prompt == [USER, FOUR, AGAIN]
    opened = parse_preference({"prompt": " Human: 2+2?\n\nAssistant: ", "chosen": "4", "rejected": "5"})
    assert opened.prompt == [USER]
    with pytest.raises(ValueError, match="ends with the assistant"):
        parse_preference({"prompt": "Human: 2+2?\n\nAssistant: So", "chosen": "4", "rejected": "5"})


@pytest.mark.parametrize(
    ("chosen", "rejected", "shared"),
    [
        ([USER, FOUR], [USER, FIVE], 1),
        ([USER, FOUR, AGAIN, FOUR], [USER, FOUR, AGAIN, FIVE], 3),
        ([USER, FOUR, AGAIN, FOUR], [USER, FOUR, USER, FOUR], 1),  # they part at a question: it belongs to the answers
        ([USER, FOUR], [USER, FOUR, AGAIN, FIVE], 1),  # one side ends where the other goes on
    ],
)
def test_the_prompt_is_what_both_begin_with(chosen, rejected, shared):
    found = parse_preference({"chosen": chosen, "rejected": rejected})
    assert found == Ranking(chosen[:shared], [chosen[shared:], rejected[shared:]], None)


def test_read_prompt_takes_what_is_there():
    assert read_prompt({"answer": "4"}) == []
    assert read_prompt({"question": "2+2?", "answer": "4", "system": "S"}) == [{"role": "system", "content": "S"}, USER]
    assert read_prompt({"prompt": [USER, FOUR, AGAIN]}) == [USER, FOUR, AGAIN]
    assert read_prompt({"prompt": "Human: 2+2?\n\nAssistant:"}) == [USER]
    assert read_prompt({"prompt": None, "instruction": "2+2?", "question": "no"}) == [USER]


def test_lists_of_chosen_and_rejected() -> None:
    """Each text once; so many first ones are chosen. One on each side is a pair as any other."""
    row = {"prompt": "2+2?", "chosen": ["4", "four", "4"], "rejected": ["5", "6"]}
    ranking = parse_preference(row)
    said = [answer[0]["content"] for answer in ranking.completions]
    assert (ranking.prompt, said, ranking.chosen) == ([USER], ["4", "four", "5", "6"], 2)
    assert ranking.take(slice(None, None, 3)).chosen is None
    assert parse_preference({**row, "chosen": ["4"], "rejected": ["5"]}).chosen is None
    assert parse_preference({**row, "chosen": "4"}).chosen == 1
    with pytest.raises(ValueError, match="chosen 0 and rejected 1 are identical"):
        parse_preference({**row, "rejected": ["5", "4"]})


def test_a_pair_of_sharegpt_stands_behind_its_conversation() -> None:
    four, five = ({"from": "gpt", "value": text} for text in "45")
    ranking = parse_preference(
        {"conversations": [{"from": "human", "value": "2+2?"}], "chosen": four, "rejected": five}
    )
    assert (ranking.prompt, ranking.completions[0]) == ([USER], [{"role": "assistant", "content": "4"}])


@pytest.mark.parametrize("label", [{"label": True}, {"kto_tag": "+1"}, {"is_correct": "good"}, {"correct": 1}])
def test_the_last_answer_of_a_conversation_has_the_label(label: dict) -> None:
    talk = [USER, {"role": "assistant", "content": "4"}, {"role": "user", "content": "Sure?"}]
    last = {"role": "assistant", "content": "Yes."}
    ranking, wanted = parse_labelled({"messages": [*talk, last], **label})
    assert (ranking.prompt, ranking.completions, wanted) == (talk, [[last]], True)
    with pytest.raises(ValueError, match="does not end with an answer of the assistant"):
        parse_labelled({"messages": talk, **label})
