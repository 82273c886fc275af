"""Files to score: what is judged is what was said, and what is written is whole."""

import datetime
import json
from decimal import Decimal

import pytest

from reward_models.score import parse_answers
from rlhf.data.answers import Answer, vocabulary_of
from rlhf.data.files import refuse_output, write_jsonl
from rlhf.errors import UserError
from rlhf.models.policy import load_tokenizer
from rlhf.models.reward_model import _Member
from rlhf.text.chat import end_tokens

ASKED = [{"role": "user", "content": "q"}]


def test_a_reward_model_judges_no_end_token_that_was_not_said():
    """The reward is read at the last token: of a cut completion that is the last one said."""
    member = object.__new__(_Member)  # its tokenizer is all that is asked
    member.tokenizer = load_tokenizer("embedded")
    x, y = (member.tokenizer.encode(letter)[0] for letter in "xy")
    own = Answer("xy", (y, x), False, vocabulary_of(member.tokenizer))
    group = member._whole(ASKED, [own, Answer("xy", ended=False), Answer("xy"), "xy"])
    assert group.completions[:2] == [[y, x], [x, y]]
    assert group.completions[2] == group.completions[3] == [x, y, end_tokens(member.tokenizer)[0]]


def test_rows_to_answers():
    row = {"prompt": "q", "completions": ["a", "b"], "ended": [True, False], "system": "s", "label": 1}
    system = {"role": "system", "content": "s"}
    assert parse_answers(row) == (row, ([system, *ASKED], [Answer("a"), Answer("b", ended=False)]))
    assert parse_answers({"question": "q", "response": "a"})[1] == (ASKED, [Answer("a")])
    for odd, words in (
        ({"prompt": "q"}, "wanted completion"),
        ({"completion": "a"}, "wanted a prompt"),
        ({"prompt": "q", "completion": " "}, "wanted completion"),
        ({"prompt": "q", "completion": "a", "tools": [{"name": "f"}]}, "tools would be ignored"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_answers(odd)


def test_what_json_has_no_word_for_is_written_as_text(tmp_path):
    time = datetime.datetime(2024, 1, 2, 3, 4, 5)
    file = tmp_path / "scored.jsonl"
    write_jsonl(
        file, [{"at": time, "day": [time.date()], "price": {"of": Decimal("1.5")}, "nan": float("nan"), "n": 2}]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["scored.jsonl"]
    expected = {"at": "2024-01-02 03:04:05", "day": ["2024-01-02"], "price": {"of": "1.5"}, "nan": None, "n": 2}
    assert json.loads(file.read_text()) == expected


def test_an_output_that_cannot_be_is_refused_before_anything_is_scored(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("{}\n")
    other = tmp_path / "thesis.tex"
    other.write_text("years")
    refuse_output(tmp_path / "new.jsonl", reads=str(data))
    for path, words in (
        (tmp_path / "no" / "x.jsonl", "there is no folder"),
        (tmp_path, "is a folder"),
        (data, "is the file that is read"),
        (other, "exists already"),
    ):
        with pytest.raises(UserError, match=words):
            refuse_output(path, reads=str(data))
