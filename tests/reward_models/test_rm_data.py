"""Rows of files to examples: outcome and process, PRM800K's real schema, and what is odd."""

import json

import pytest

from reward_models.config import DataConfig, OutcomeConfig, ProcessConfig
from reward_models.data import (
    Example,
    Trace,
    contrasting,
    encode_trace,
    in_pairs,
    merge,
    outcome_data,
    parse_solutions,
    parse_traces,
    process_data,
    separator_token,
    traces_to_examples,
)
from reward_models.questions import LastNumber, parse_question
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.models import load_tokenizer
from rlhf.tasks import Problem


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


# ---------------------------------------------------------------------------------------------------------- outcome


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "completions": ["a", "b"], "labels": [True, False]},
        {"prompt": "q", "completions": ["a", "b"], "labels": [1, 0]},
        {"question": "q", "m1": {"solution": "a", "is_correct": True}, "m2": {"solution": "b", "is_correct": False}},
    ],
)
def test_solutions(row):
    assert parse_solutions(row) == ("q", [("a", True), ("b", False)])


def test_one_solution_a_row():
    assert parse_solutions({"question": "q", "solution": "a", "is_correct": 0}) == ("q", [("a", False)])
    rows = [{"question": "q", "response": t, "label": y} for t, y in (("a", 1), ("b", 0), ("b", 1), ("c", 0))]
    said = []
    assert merge(map(parse_solutions, rows), said.append) == [("q", [("a", True), ("c", False)])]
    assert "1 solutions" in said[0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"completions": ["a"], "labels": [1]}, "no question"),
        ({"question": "q", "completions": ["a"], "labels": [1, 0]}, "one length"),
        ({"question": "q", "completions": ["a"]}, "one length"),
        ({"question": "q", "completions": ["a"], "labels": [0.5]}, "wanted true or false"),
        ({"question": "q", "completions": [" "], "labels": [1]}, "empty"),
        ({"question": "q", "solution": "a"}, "wanted a solution with a label"),
        ({"question": "q", "m": {"solution": None, "is_correct": True}}, "empty or not text"),
        ({"question": "q", "m": {"solution": "a", "is_correct": "yes"}}, "wanted true or false"),
    ],
)
def test_odd_solutions(row, reason):
    with pytest.raises(ValueError, match=reason):
        parse_solutions(row)


def test_numbers_at_the_end():
    problem = parse_question({"question": "q", "answer": "16 - 3 = 13\n#### 1,018"})
    verdicts = [LastNumber().verify(problem, text).exact for text in ("so 1018", "$1,018.", "1019", "none", "1018.0")]
    assert verdicts == [1.0, 1.0, 0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="no number"):
        parse_question({"question": "q", "answer": "many"})
    assert LastNumber().verify(Problem("q", "7", {}), "7 then 8").exact == 0


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
        ({"prompt": "q", "completions": ["a"], "labels": ["good"]}, "wanted -1, 0 or 1"),
        ({"prompt": "q", "completions": ["a", ""], "labels": [1, 1]}, "a step is empty"),
        ({"prompt": "q", "completions": ["a"], "labels": []}, "one length"),
        ({"completions": ["a"], "labels": [1]}, "no question"),
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
        tokens, counts, labels = encode_trace(tokenizer, trace, separator, judged_at=judged_at, room=100)
        assert tokenizer.decode(tokens) == "ab\nc\nd\n"
        assert [i for i, counted in enumerate(counts) if counted] == places
        assert labels == [1, -1]
    with pytest.raises(UserError, match="makes 2 tokens"):
        separator_token(tokenizer, "\n\n")


def test_long_traces_keep_their_history(tokenizer):
    """What does not fit is left out at the end, by whole steps."""
    trace = Trace(["ab", "c", "d"], [1, 0, -1])
    tokens, _, labels = encode_trace(tokenizer, trace, 7, judged_at="separator", room=6)
    assert (len(tokens), labels) == (5, [1, 0])
    said = []
    config = ProcessConfig(max_steps=1, max_length=10)
    (example,) = traces_to_examples([("q", [Trace(["ab", "c", "d"], [1, 0, -1])])], tokenizer, config, said.append)
    assert len(example.group.prompt) + len(example.group.completions[0]) <= 10
    assert "labelled steps are left out" in said[0]


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
