"""Rows of files to examples: outcome and process, PRM800K's real schema, and what is odd."""

import json

import pytest

from reward_models.config import DataConfig, OutcomeConfig, PreferenceConfig, ProcessConfig
from reward_models.examples import Example, sample_problems
from reward_models.outcome_data import (
    candidates_to_solutions,
    contrasting,
    in_pairs,
    outcome_data,
    outcome_examples,
    parse_solutions,
    solutions_to_examples,
)
from reward_models.preference_data import preference_examples
from reward_models.process_data import process_data, process_examples
from reward_models.sample import to_row
from reward_models.traces import Trace, parse_traces
from rlhf.candidates import Candidates
from rlhf.data.answers import Answer, vocabulary_of
from rlhf.data.files import write_jsonl
from rlhf.data.rows import load_rows
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.models.policy import load_tokenizer
from rlhf.tasks.problem import Problem, Verdict
from rlhf.text.chat import encode_prompt, end_tokens
from rlhf.text.steps import encode_steps, join_steps, separator_token


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


# ---------------------------------------------------------------------------------------------------------- outcome

ASK, SAID = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "completions": ["a", "b"], "labels": [True, False]},
        {"prompt": "q", "completions": ["a", "b"], "labels": [1, 0]},
        {"question": "q", "m1": {"solution": "a", "is_correct": True}, "m2": {"solution": "b", "is_correct": False}},
    ],
)
def test_solutions(row):
    assert parse_solutions(row) == ([ASK], [(Answer("a"), True), (Answer("b"), False)])


def test_one_solution_a_row():
    for label in (0, False, "0", "False", -1, "bad"):  # cells of a .csv are text
        found = parse_solutions({"question": "q", "solution": "a", "is_correct": label})
        assert found == ([ASK], [(Answer("a"), False)])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASK], "completion": "a", "label": True},
        {"prompt": [ASK], "completion": [SAID], "label": "good"},
        {"messages": [ASK, SAID], "label": 1},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "kto_tag": "+1"},
    ],
)
def test_solutions_as_messages(row):
    assert parse_solutions(row) == ([ASK], [(Answer("a"), True)])


def test_the_context_of_a_solution_is_read(tokenizer):
    rows = [{"question": "q", "system": f"s{i}", "solution": "a", "label": 1} for i in (0, 1)]
    one, other = outcome(rows, tokenizer)
    assert one.question == other.question == "q", "the same side of a split"
    asked = [{"role": "system", "content": "s0"}, ASK]
    assert one.group.prompt == encode_prompt(tokenizer, asked)


def test_labels_of_one_file_are_of_two_kinds(tokenizer):
    rows = [{"question": f"q{i}", "solution": "a", "label": label} for i, label in enumerate((1, -1, 1, 0))]
    with pytest.raises(UserError, match=r"-1 \(row 1: label -1\) and of 0 \(row 3: label 0\)"):
        outcome(rows, tokenizer)


def test_an_answer_may_have_been_cut_off():
    cut = {"question": "q", "completions": ["a", "b"], "labels": [1, 0], "ended": [True, False]}
    assert parse_solutions(cut)[1] == [(Answer("a"), True), (Answer("b", ended=False), False)]


def numbered(rows) -> list:
    return [(f"row {i}", row) for i, row in enumerate(rows)]


def outcome(rows, tokenizer, said=None, **settings) -> list[Example]:
    config = OutcomeConfig(max_steps=1, **settings)
    return outcome_examples(numbered(rows), tokenizer, config, (said if said is not None else []).append)


def test_one_example_a_question(tokenizer):
    rows = [{"question": "q", "response": t, "label": y} for t, y in (("a", 1), ("b", 0))]
    (example,) = outcome([*rows, {"question": "q", "completions": ["c"], "labels": [0]}], tokenizer)
    assert (example.question, example.texts, example.right) == ("q", ["a", "b", "c"], [True, False, False])
    assert [tokenizer.decode(tokens[:-1]) for tokens in example.group.completions] == ["a", "b", "c"]
    assert example.group.prompt == encode_prompt(tokenizer, [{"role": "user", "content": "q"}])


def test_a_solution_labelled_both_ways_counts_as_unusable(tokenizer):
    """2 of 42 answers are 4.8 %, 2 of 39 are 5.1 %."""
    both = [{"question": "q", "response": "b", "label": y} for y in (0, 1)]
    others = [{"question": f"q{i}", "response": "a", "label": i % 2} for i in range(40)]
    said = []
    assert len(outcome([*both, *others], tokenizer, said)) == 40
    assert "2 of 42 answers are left out (row 0: labelled right in one row and wrong in another; row 1: " in said[0]
    with pytest.raises(UserError, match="2 of 39 answers cannot be used"):
        outcome([*both, *others[:37]], tokenizer)


def test_long_answers_and_broken_rows_count_together(tokenizer):
    """1 broken row of 41, and 1 of 40 answers too long: 1 - 40/41 * 39/40 = 4.9 %. With 2 too long it is 7.3 %."""
    others = [{"question": f"q{i}", "response": "a", "label": i % 2} for i in range(39)]
    long, broken = {"question": "q", "response": "ab" * 100, "label": 1}, {"question": "q", "response": "a"}
    needs = sum(len(example.group.prompt) + len(example.group.completions[0]) for example in outcome([long], tokenizer))
    said = []
    assert len(outcome([broken, *others, long], tokenizer, said, max_length=needs - 1)) == 39
    assert "1 of 41 rows and 1 of 40 answers are left out" in said[0]
    assert f"row 40: takes {needs} tokens, max_length is {needs - 1}" in said[0]
    with pytest.raises(UserError, match="1 of 41 rows and 2 of 40 answers cannot be used"):
        outcome([broken, *others[1:], long, long], tokenizer, max_length=needs - 1)
    with pytest.raises(UserError) as caught:
        outcome([*others[:10], *[long] * 10], tokenizer, max_length=needs - 1)
    assert f"Raise max_length: {needs} fits" in str(caught.value.hint)


def test_answers_that_were_cut_off_have_no_end_token(tokenizer):
    (example,) = outcome(
        [{"question": "q", "completions": ["abc", "abc"], "labels": [0, 0], "ended": [True, False]}], tokenizer
    )
    ended, cut = example.group.completions
    assert ended[:-1] == cut
    assert ended[-1] in end_tokens(tokenizer)


def test_samples_keep_their_tokens(tokenizer):
    """An order that the tokenizer would not give for the text, and no end token behind what was cut."""
    x, y = (tokenizer.encode(letter)[0] for letter in "xy")
    answers = [
        Answer("xy", (y, x), False, vocabulary_of(tokenizer)),
        Answer("y", (y,), False, vocabulary_of(tokenizer)),
    ]
    candidates = Candidates(Problem("q", "", {}), answers, [Verdict(1.0, 1.0, 1.0), Verdict(0.0, 1.0, 0.0)])
    config = OutcomeConfig(max_steps=1)
    solutions = [("problem 0", candidates_to_solutions(candidates))]
    (example,) = solutions_to_examples(solutions, tokenizer, config, print)
    assert example.group.completions == [[y, x], [y]]
    assert example.right == [True, False]


def test_a_file_of_samples_is_what_was_sampled(tokenizer, tmp_path):
    """Written by reward_models.sample, read again: the same tokens. What says nothing is not written."""
    end = end_tokens(tokenizer)[0]
    x, y = (tokenizer.encode(letter)[0] for letter in "xy")
    answers = [
        Answer("xy", (y, x, end), True, vocabulary_of(tokenizer)),
        Answer("", (end,), True, vocabulary_of(tokenizer)),
        Answer("x", (x,), False, vocabulary_of(tokenizer)),
    ]
    verdicts = [Verdict(1.0, 1.0, 1.0), Verdict(0.0, 0.0, 0.0), Verdict(0.0, 1.0, 0.0)]
    file = tmp_path / "samples.jsonl"
    write_jsonl(file, [to_row(Candidates(Problem("q", "7", {}), answers, verdicts))])
    (example,) = outcome_examples(load_rows(str(file)), tokenizer, OutcomeConfig(max_steps=1), print)
    assert example.group.completions == [[y, x, end], [x]]
    assert (example.texts, example.right) == (["xy", "x"], [True, False])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"completions": ["a"], "labels": [1]}, "no question"),
        ({"question": "q", "completions": ["a"], "labels": [1, 0]}, "one length"),
        ({"question": "q", "completions": ["a"]}, "one length"),
        ({"question": "q", "completions": ["a", "b"], "labels": [1, -1]}, "train_prm"),
        ({"question": "q", "completions": ["a", "b"], "labels": [1, None]}, "train_prm"),
        ({"question": "q", "chosen": "a", "rejected": "b"}, "these look like pairs.*train_preference_rm"),
        ({"messages": [{"role": "user", "content": "q"}]}, "a solution with a label.*instruction_tuning"),
        ({"question": "q", "answer": "4"}, "the tasks prompts and word_problems"),
        ({"question": {"problem": "q"}, "label": {"steps": []}}, "train_prm"),
        ({"question": "q", "solution": "a", "label": 1, "documents": "s"}, "documents would be ignored"),
        ({"question": "q", "solution": "a", "label": 1, "weight": 2}, "weight would be ignored"),
        ({"question": "q", "completions": ["a"], "labels": [0.5]}, "wanted true or false"),
        ({"question": "q", "completions": [" "], "labels": [1]}, "empty"),
        ({"question": "q", "solution": "a"}, "wanted a solution with a label"),
        ({"question": "q", "m": {"solution": None, "is_correct": True}}, "empty or not text"),
        ({"question": "q", "m": {"solution": "a", "is_correct": "maybe"}}, "wanted true or false"),
    ],
)
def test_odd_solutions(row, reason):
    with pytest.raises(ValueError, match=reason):
        parse_solutions(row)


# ---------------------------------------------------------------------------------------------------------- process


def step(*completions, chosen=None, human=None) -> dict:
    return {
        "completions": [{"text": t, "rating": r, "flagged": None} for t, r in completions] or None,
        "chosen_completion": chosen,
        "human_completion": human,
    }


def prm800k(*steps, finish_reason="found_error") -> dict:
    return {
        "labeler": "x",
        "question": {"problem": "q", "ground_truth_answer": "4"},
        "label": {"steps": list(steps), "total_time": 1, "finish_reason": finish_reason},
    }


SHEPHERD = "How many are 2 and 3? Step 1: Add 2 and 3. ки\nStep 2: 2+3=6 ки\nStep 3: The answer is: 6 ки"


def test_math_shepherds_rows():
    """The question, the steps with their number, and what stands in the labels where the step ends."""
    label = SHEPHERD.replace(" ки", " +", 1).replace(" ки", " -")
    steps = ["Step 1: Add 2 and 3.", "Step 2: 2+3=6", "Step 3: The answer is: 6"]
    row = {"input": SHEPHERD, "label": label, "task": "GSM8K"}
    assert parse_traces(row) == ("How many are 2 and 3?", [Trace(steps, [1, -1, -1])])


@pytest.mark.parametrize(
    ("text", "label", "said"),
    [
        (SHEPHERD, SHEPHERD, "wanted the input with"),
        (SHEPHERD, SHEPHERD.replace("ки", "+").replace("2+3=6", "2+3=5"), "wanted the input with"),
        (SHEPHERD + " more", SHEPHERD.replace("ки", "+") + " more", "behind the last"),
        ("2+3? 5 ки", "2+3? 5 +", "from 'Step 1:' on"),
    ],
)
def test_odd_rows_of_math_shepherd(text, label, said):
    with pytest.raises(ValueError, match=said):
        parse_traces({"input": text, "label": label})


def test_labels_of_steps_in_words():
    row = {"prompt": "q", "completions": list("abcdefg"), "labels": ["+", "-", "good", "bad", "neutral", "-1", "true"]}
    assert parse_traces(row)[1][0].labels == [1, -1, 1, -1, 0, -1, 1]
    with pytest.raises(ValueError, match="label"):
        parse_traces({**row, "labels": [*row["labels"][:-1], "maybe"]})


def test_zeros_and_ones_alone_are_unclear(tokenizer):
    """Wrong and right, or neutral and right: nobody can tell."""
    rows = [{"prompt": f"q{i}", "completions": ["a", "b"], "labels": [1, i % 2]} for i in range(4)]
    with pytest.raises(UserError, match=r"labels of 0 \(row 0\) and 1, and none of -1"):
        process_examples(numbered(rows), tokenizer, ProcessConfig(max_steps=1), print)
    clear = [*rows[:3], {**rows[3], "labels": [1, -1]}]
    assert len(process_examples(numbered(clear), tokenizer, ProcessConfig(max_steps=1), print)) == 4


def test_prm800k_alternatives_are_no_sequence():
    """Phase 1: the chosen alternative is what the next step follows; the others are learned behind the same history.
    At the end nothing is chosen: the first alternative ends the trace, the other stands beside it."""
    row = prm800k(
        step(("a", 1), ("b", -1), ("c", 0), chosen=0),
        step(("d", -1), ("e", 1), chosen=1),
        step(("f", -1), ("g", -1)),
    )
    assert parse_traces(row) == (
        "q",
        [
            Trace(["a", "e", "f"], [1, 1, -1]),
            Trace(["b"], [-1], alternative=True),
            Trace(["c"], [0], alternative=True),
            Trace(["a", "d"], [None, -1], alternative=True),
            Trace(["a", "e", "g"], [None, None, -1], alternative=True),
        ],
    )


def test_prm800k_human_steps_and_missing_ratings():
    """Phase 1 with a step that the labeller wrote, which has no rating; phase 2 with one completion a step."""
    human = {"text": "h", "rating": None, "source": "human", "flagged": False}
    row = prm800k(step(("a", -1), ("b", None), human=human), step(("c", 1), chosen=0), finish_reason="solution")
    assert parse_traces(row)[1] == [Trace(["h", "c"], [None, 1]), Trace(["a"], [-1], alternative=True)]
    row = prm800k(step(("a", 1), chosen=0), step(("b", None), chosen=0), step(("c", 0), chosen=0), step(("d", -1)))
    assert parse_traces(row)[1] == [Trace(["a", "b", "c", "d"], [1, None, 0, -1])]
    assert parse_traces(prm800k(step(("a", 1)), finish_reason="bad_problem")) == ("q", [])
    assert parse_traces(prm800k(step(("a", None)))) == ("q", [])
    assert parse_traces(prm800k()) == ("q", [])


def test_stepwise_rows():
    row = {"prompt": "q", "completions": ["a", "b", "c"], "labels": [True, False, None]}
    assert parse_traces(row) == ("q", [Trace(["a", "b", "c"], [1, -1, None])])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "completions": ["a"], "labels": [2]}, "label 2: wanted -1, 0 or 1"),
        ({"prompt": "q", "completions": ["a"], "labels": ["maybe"]}, "wanted true or false"),
        ({"prompt": "q", "completions": ["a", ""], "labels": [1, 1]}, "a step is empty"),
        ({"prompt": "q", "completions": ["a"], "labels": []}, "one length"),
        ({"completions": ["a"], "labels": [1]}, "no question"),
        ({"prompt": "q", "completions": ["<answer>1</answer>", "<answer>2</answer>"], "labels": [1, 0]}, "train_orm"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "these look like pairs"),
        ({"prompt": "q", "completions": ["a"], "labels": [1], "history": [["a", "b"]]}, "history would be ignored"),
        (prm800k(step(("a", 3), chosen=0)), "label 3"),
        (prm800k(step(("a", 1), chosen=4)), "chosen_completion 4 of 1"),
        (prm800k("a"), "wanted steps"),
        ({"question": {}, "label": {"steps": []}}, "question.problem"),
        ({"question": {"problem": "q"}, "label": {}}, "label.steps"),
    ],
)
def test_odd_traces(row, reason):
    with pytest.raises(ValueError, match=reason):
        parse_traces(row)


def test_steps_end_with_the_separator(tokenizer):
    separator = separator_token(tokenizer, "\n")
    trace = Trace(["ab", "c", "d"], [1, None, -1])
    for judged_at, places in (("separator", [2, 6]), ("step", [1, 5])):
        steps = encode_steps(tokenizer, trace.steps, separator)
        tokens, counts, labels = join_steps(steps, trace.labels, judged_at=judged_at)
        assert tokenizer.decode(tokens) == "ab\nc\nd\n"
        assert [i for i, counted in enumerate(counts) if counted] == places
        assert labels == [1, -1]
    with pytest.raises(UserError, match="makes 2 tokens"):
        separator_token(tokenizer, "\n\n")


def process(rows, tokenizer, said=None, **settings) -> list[Example]:
    config = ProcessConfig(max_steps=1, **settings)
    return process_examples(numbered(rows), tokenizer, config, (said if said is not None else []).append)


def stepwise(question: str, *steps: str) -> dict:
    return {"prompt": question, "completions": list(steps), "labels": [1] * len(steps)}


def test_long_traces_keep_their_history_and_lose_whole_steps(tokenizer):
    """39 traces of one step fit; of the last one's steps a, b, c the third does not: 1 of 42 labelled steps."""
    rows = [*(stepwise(f"{i:02}", "a") for i in range(39)), stepwise("qq", "aa", "bb", "cc")]
    prompt = len(encode_prompt(tokenizer, [{"role": "user", "content": "qq"}]))
    said = []
    examples = process(rows, tokenizer, said, max_length=prompt + 8)
    assert len(examples) == 40
    assert tokenizer.decode(examples[-1].group.completions[0]) == "aa\nbb\n"
    assert examples[-1].labels == [[1, 1]]
    assert examples[-1].step_ends == [[2, 5]]
    assert f"1 of 42 labelled steps are left out (row 39: takes {prompt + 9} tokens" in said[0]
    with pytest.raises(UserError, match="cannot be used") as caught:  # 3 of 23 steps
        process([*rows[:20], stepwise("qq", *"abcdefg" * 3)], tokenizer, max_length=prompt + 8)
    assert "Raise max_length" in str(caught.value.hint)


def test_rows_without_a_rated_step_are_said_and_not_unusable(tokenizer):
    rows = [stepwise("q", "a"), *[{"prompt": "p", "completions": ["a"], "labels": [None]}] * 3]
    said = []
    (example,) = process(rows, tokenizer, said)
    assert example.question == "q"
    assert said == ["data: 3 of 4 rows have no rated step"]


def test_unknown_steps_are_unusable(tokenizer):
    rows = [*(stepwise(f"q{i}", "a") for i in range(39)), stepwise("q", "\u4f60\u597d")]
    said = []
    assert len(process(rows, tokenizer, said)) == 39
    assert "1 of 40 traces are left out (row 39: the tokenizer does not know 2 of the 2 tokens" in said[0]


def test_alternatives_are_behind_their_question(tokenizer):
    """Of PRM800K's rows: one example a question, its traces as answers, each labelled step once."""
    row = prm800k(step(("a", 1), ("b", -1), chosen=0), step(("c", 0), ("d", 1)))
    (example,) = process([row, row], tokenizer)
    assert example.texts == ["a\nc", "b", "a\nd"] * 2
    assert example.labels == [[1, 0], [-1], [1]] * 2
    assert example.whole == [True, False, False] * 2
    (example,) = process([row], tokenizer, alternatives=False)
    assert example.texts == ["a\nc"]


# ------------------------------------------------------------------------------------------------------- preference


def preference(rows, tokenizer, said=None, **settings) -> list[Example]:
    config = PreferenceConfig(max_steps=1, **settings)
    return preference_examples(numbered(rows), tokenizer, config, (said if said is not None else []).append)


def pair(i: int, **more) -> dict:
    return {"prompt": f"question {i}", "chosen": "yes", "rejected": "no", **more}


def test_every_reason_counts_under_one_rule(tokenizer):
    """A row that no parser takes, one of unknown tokens, one too long: 3 of 60 are 5 %; 3 of 59 are more."""
    odd = [{"prompt": "q"}, pair(0, chosen="\u4f60\u597d"), pair(0, chosen="a" * 200)]
    rows = [*odd, *(pair(i) for i in range(57))]
    said = []
    assert len(preference(rows, tokenizer, said, max_length=100)) == 57
    (text,) = said
    assert text.startswith("data: 3 of 60 rows are left out (row 0: columns ['prompt']: wanted chosen and rejected")
    assert "row 1: the tokenizer does not know 2 of the 3 tokens of the answer" in text
    assert "row 2: takes 202 tokens, max_length is 100" in text
    with pytest.raises(UserError, match="3 of 59 rows cannot be used"):
        preference(rows[:-1], tokenizer, max_length=100)


def test_answers_that_are_the_same_unknown_tokens_say_so(tokenizer):
    rows = [pair(i, chosen="\u4f60\u597d", rejected="\u518d\u89c1") for i in range(5)]
    with pytest.raises(UserError, match=r"5 of 5 rows cannot be used .*the tokenizer does not know") as caught:
        preference(rows, tokenizer)
    assert "max_length" not in str(caught.value.hint)


def test_preference_examples(tokenizer):
    rows = [pair(1, margin=2, subset="chat"), pair(2, chosen="a b", system="S")]
    first, second = preference(rows, tokenizer)
    assert (first.question, first.texts, first.margin, first.subset) == ("question 1", ["yes", "no"], 2.0, "chat")
    assert (second.question, second.margin, second.subset) == ("question 2", 0.0, "")
    asked = [{"role": "system", "content": "S"}, {"role": "user", "content": "question 2"}]
    assert second.group.prompt == encode_prompt(tokenizer, asked)
    with pytest.raises(UserError, match="the data have no margins") as caught:
        preference([pair(1)], tokenizer, margin_scale=1.0)
    assert "Give a column margin" in str(caught.value.hint)
    long = {"prompt": "q", "completions": ["a", "b", "c"], "margin": 1}
    with pytest.raises(UserError, match="a margin belongs to a pair"):
        preference([long], tokenizer, margin_scale=1.0)


def test_verified_answers_are_compared():
    """Right against wrong of the same question, at most so many pairs to train on; all of them to be judged by."""
    group = Group([1], [[2], [3], [4], [5]], [[True]] * 4)
    mixed = Example("q", group, ["a", "b", "c", "d"], [True, False, True, False])
    same = Example("p", group, ["a", "b", "c", "d"], [True] * 4)
    assert contrasting([same, mixed]) == [mixed]
    pairs = in_pairs([mixed, same], DataConfig(pairs=3))
    assert len(pairs) == len({tuple(pair.texts) for pair in pairs}) == 3
    assert all(pair.right == [True, False] and pair.pairs == [(0, 1)] for pair in pairs)
    assert all(pair.texts[0] in "ac" and pair.texts[1] in "bd" for pair in pairs)
    assert len(in_pairs([mixed], DataConfig(pairs=9))) == 4


def test_splits_share_no_question(tokenizer, tmp_path):
    """And the held-out part is the same whatever the order of the rows."""
    rows = [{"question": f"q{i % 50}", "solution": f"s{i}", "label": i % 3 == 0} for i in range(150)]
    parts = []
    for order in (rows, rows[::-1]):
        file = tmp_path / "d.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in order))
        config = OutcomeConfig(data={"path": str(file), "held_out": 10, "validation": 8})
        split = outcome_data(config, tokenizer, print)
        parts.append([{e.question for e in part} for part in (split.train, split.validation, split.held_out)])
        assert [len(p) for p in parts[-1]] == [32, 8, 10]
        assert not parts[-1][0] & parts[-1][1] | parts[-1][0] & parts[-1][2] | parts[-1][1] & parts[-1][2]
    assert parts[0] == parts[1]


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda f: f.write_text('{"prompt": "q", "completions": ["a"], "labels": [5]}\n' * 3), ["label 5", "line 1"]),
        (lambda f: f.write_text('{"prompt": "q", "completions": ["a"], "labels": [1]}\n{"pro\n'), ["line 2", "JSON"]),
        (lambda f: f.write_text('{"a": 1}\n'), ["no question", "line 1"]),
        (lambda f: f.write_text(""), ["no rows"]),
    ],
)
def test_bad_files_are_refused(tokenizer, tmp_path, write, says):
    file = tmp_path / "d.jsonl"
    write(file)
    with pytest.raises(UserError) as error:
        process_data(ProcessConfig(data={"path": str(file)}), tokenizer, print)
    for word in says:
        assert word in str(error.value)


def test_word_problems_are_a_task_like_any_other(tokenizer, tmp_path, monkeypatch):
    """They come through the front door of all tasks, and are judged by where `answer_in` says that the answer is."""
    write_jsonl(tmp_path / "d.jsonl", [{"question": f"{i} and {i}?", "answer": f"#### {2 * i}"} for i in range(40)])
    asked = []

    def sample_candidates(_policy, task, problems, **_):
        verdicts = [task.verify(problem, f"so it is {problem.answer}") for problem in problems]
        asked.append([verdict.exact for verdict in verdicts])
        return []

    monkeypatch.setattr("reward_models.examples.sample_candidates", sample_candidates)
    for answer_in, right in (("last_number", 1.0), ("answer_tag", 0.0)):
        config = {"path": str(tmp_path / "d.jsonl")}
        data = DataConfig(task="word_problems", task_config=config, answer_in=answer_in, problems=9, held_out=3)
        assert sample_problems(OutcomeConfig(data=data), tokenizer)[0] == "word_problems"
        train, held_out = asked[-2:]
        assert (train, held_out) == ([right] * 9, [right] * 3)


def test_lists_of_chosen_and_rejected_are_compared_side_with_side(tokenizer):
    """RewardBench 2: each chosen with each rejected, and nothing within a side; one text twice is once."""
    row = {"prompt": "q", "chosen": ["a", "b"], "rejected": ["c", "d", "d"], "subset": "Ties"}
    (example,) = preference_examples(numbered([row]), tokenizer, PreferenceConfig(max_steps=1), print)
    assert (example.texts, example.right) == (list("abcd"), [True, True, False, False])
    assert example.pairs == [(0, 2), (0, 3), (1, 2), (1, 3)]
    single = {**row, "chosen": ["a"], "rejected": ["c"]}
    (example,) = preference_examples(numbered([single]), tokenizer, PreferenceConfig(max_steps=1), print)
    assert (example.texts, example.right, example.pairs) == (["a", "c"], [], [(0, 1)])
    for odd in ({"chosen": ["a"], "rejected": []}, {"chosen": ["a", 3], "rejected": ["c"]}):
        with pytest.raises(UserError, match=r"wanted texts, as many as there are|wanted messages"):
            preference_examples(numbered([{**row, **odd}]), tokenizer, PreferenceConfig(max_steps=1), print)
