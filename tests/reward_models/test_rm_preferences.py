"""Rows of many shapes to rankings, and rankings to groups."""

import gzip
import json

import pytest

from rlhf.cache import cached, fingerprint, key
from rlhf.candidates import Candidates, sample_candidates, to_rankings
from rlhf.chat import decode, encode_prompt, end_tokens
from rlhf.errors import UserError
from rlhf.models import load_tokenizer
from rlhf.preferences import Ranking, load_preferences, parse_preference, split_by_question, to_group, to_groups
from rlhf.tasks import Problem, Task, Verdict

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
        ({"completions": ["4", "5"]}, "need a prompt"),
    ],
)
def test_odd_rows_are_refused_with_the_reason(row, reason):
    with pytest.raises(ValueError, match=reason):
        parse_preference(row)


def test_a_file(tmp_path):
    """A gzip cut short and broken JSON are named; the implicit prompt of hh-rlhf is found."""
    rows = [
        {"chosen": f"\n\nHuman: {i}?\n\nAssistant: yes", "rejected": f"\n\nHuman: {i}?\n\nAssistant: no"}
        for i in range(9)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    file = tmp_path / "d.jsonl.gz"
    file.write_bytes(gzip.compress(text.encode()))
    rankings = load_preferences(str(file), split="train", say=print, size=5)
    assert [r.question for r in rankings] == ["0?", "1?", "2?", "3?", "4?"]
    file.write_bytes(gzip.compress(text.encode())[:-12])
    with pytest.raises(UserError, match="ends in the middle"):
        load_preferences(str(file), split="train", say=print)
    broken = tmp_path / "d.jsonl"
    broken.write_text(text + "{oops\n")
    with pytest.raises(UserError, match="line 10 is not JSON"):
        load_preferences(str(broken), split="train", say=print)


def test_split_by_question():
    """Whole questions, the same ones in any order and for any number of the others; two names, two choices."""
    items = [(f"q{i % 40}", i) for i in range(120)]
    train, held = split_by_question(items, lambda item: item[0], held_out=20)
    assert len(held) == 18  # questions of three items each
    assert not {q for q, _ in train} & {q for q, _ in held}
    assert sorted(train + held) == sorted(items)
    _, again = split_by_question(items[::-1], lambda item: item[0], held_out=20)
    assert {q for q, _ in again} == {q for q, _ in held}
    _, other = split_by_question(items, lambda item: item[0], held_out=20, name="validation")
    assert {q for q, _ in other} != {q for q, _ in held}
    with pytest.raises(UserError, match="too few"):
        split_by_question(items[:1], lambda item: item[0], held_out=20)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


def ranking(*answers: str, prompt: str = "abcdefgh") -> Ranking:
    return Ranking(
        [{"role": "user", "content": prompt}], [[{"role": "assistant", "content": a}] for a in answers], None
    )


def test_group(tokenizer):
    """The prompt as sampling sees it; each answer with its end token, all of it counting."""
    group = to_group(tokenizer, ranking("xyz", "w"), max_length=100, truncation="keep_end")
    assert group.prompt == encode_prompt(tokenizer, [{"role": "user", "content": "abcdefgh"}])
    assert [decode(tokenizer, c) for c in group.completions] == ["xyz", "w"]
    assert all(c[-1] in end_tokens(tokenizer) for c in group.completions)
    assert group.counts == [[True] * 4, [True] * 2]


def test_answers_of_several_turns_count_without_what_the_user_says(tokenizer):
    conversation = [FOUR, AGAIN, FIVE]
    group = to_group(tokenizer, Ranking([USER], [conversation, [FIVE]], None), max_length=100, truncation="keep_end")
    counted = [t for t, c in zip(group.completions[0], group.counts[0], strict=True) if c]
    assert decode(tokenizer, counted) == "45"
    assert len(counted) == 4, "both end tokens"
    later = to_group(
        tokenizer, Ranking([USER, FIVE, AGAIN], [conversation, [FIVE]], None), max_length=100, truncation="keep_end"
    )
    assert decode(tokenizer, later.prompt).endswith("Sure?") or "Sure?" in tokenizer.decode(later.prompt)
    assert later.completions == group.completions


def test_truncation(tokenizer):
    """keep_end never loses an end token; keep_start never loses the prompt; what becomes the same is left out."""
    whole = to_group(tokenizer, ranking("xyz", "xyw"), max_length=100, truncation="keep_end")
    room = len(whole.prompt) + 4
    short = to_group(tokenizer, ranking("xyz", "xyw"), max_length=room - 3, truncation="keep_end")
    assert (short.prompt, short.completions) == (whole.prompt[3:], whole.completions)
    assert to_group(tokenizer, ranking("xyz", "xyw"), max_length=4, truncation="keep_end") is None
    cut = to_group(tokenizer, ranking("xyz", "xyw"), max_length=room - 1, truncation="keep_start")
    assert cut.prompt == whole.prompt
    assert [decode(tokenizer, c) for c in cut.completions] == ["xyz", "xyw"]
    assert not any(c[-1] in end_tokens(tokenizer) for c in cut.completions)
    assert to_group(tokenizer, ranking("xyz", "xyw"), max_length=room - 2, truncation="keep_start") is None
    said = []
    kept, _ = to_groups(
        tokenizer,
        [ranking("xyz", "xyw"), ranking("a", "b")],
        max_length=room - 2,
        truncation="keep_start",
        say=said.append,
    )
    assert kept == [ranking("a", "b")]
    assert "1 of 2 rankings are left out" in said[0]
    with pytest.raises(UserError, match="none of the 1"):
        to_groups(tokenizer, [ranking("xyz", "xyw")], max_length=4, truncation="keep_end", say=said.append)


# ------------------------------------------------------------------------------------------------ cache, candidates


def test_cache(tmp_path, monkeypatch):
    """Made once; a damaged entry is made again; another key is another entry; an unwritable folder costs time only."""
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path))
    made = []

    def make() -> dict:
        made.append(1)
        return {"texts": ["a", "b"], "n": 2}

    entry = key("model", {"n": 1})
    assert [cached("kind", entry, make) for _ in range(3)] == [{"texts": ["a", "b"], "n": 2}] * 3
    assert len(made) == 1
    (file,) = (tmp_path / "kind").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    cached("kind", entry, make)
    file.write_bytes(b"")
    assert cached("kind", entry, make)["n"] == 2
    assert len(made) == 3
    assert cached("kind", entry, make) == make()
    cached("kind", key("model", {"n": 2}), make)
    assert len(made) == 5
    monkeypatch.setenv("RLHF_CACHE", str(file))  # a file where a folder should be
    assert cached("kind", entry, make)["n"] == 2


def test_fingerprint_follows_weights_and_template(tmp_path):
    import shutil

    from rlhf.models import EMBEDDED

    folder = tmp_path / "m"
    shutil.copytree(EMBEDDED, folder)
    assert fingerprint(str(folder)) == fingerprint("embedded")
    for name in ("model.safetensors", "chat_template.jinja", "tokenizer.json", "config.json"):
        before, content = fingerprint(str(folder)), (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if content else b"x")
        assert fingerprint(str(folder)) != before, name


def test_candidates_are_sampled_once_and_verified(monkeypatch):
    task = Task("step_arithmetic")
    problems = task.train_problems(seed=0, first=0, count=3)
    arguments = {"count": 4, "max_new_tokens": 96, "seed": 0}
    first = sample_candidates("embedded", task, problems, **arguments)
    monkeypatch.setattr("rlhf.candidates.sample", lambda *_, **__: pytest.fail("sampled again"))
    assert sample_candidates("embedded", task, problems, **arguments) == first
    for one in first:
        assert one.verdicts == [task.verify(one.problem, text) for text in one.texts]
    with pytest.raises(pytest.fail.Exception):
        sample_candidates("embedded", task, problems, **(arguments | {"seed": 1}))


def test_rankings_of_candidates():
    """Right before wrong, of the same problem; none where there is no contrast; the same for the same seed."""

    def candidates(question: str, texts: str, exact: str) -> Candidates:
        verdicts = [Verdict(float(e), 1.0, 0.0) for e in exact]
        return Candidates(Problem(question, "", {}), list(texts), verdicts)

    both = candidates("q", "aabcd", "11000")
    pairs = [
        (r.completions[0][0]["content"], r.completions[1][0]["content"])
        for r in to_rankings([both], seed=0, per_problem=9)
    ]
    assert sorted(pairs) == [("a", "b"), ("a", "c"), ("a", "d")]
    assert to_rankings([candidates("q", "ab", "11"), candidates("r", "ab", "00")], seed=0) == []
    assert to_rankings([both], seed=3) == to_rankings([candidates("x", "ab", "10"), both], seed=3)[1:]
