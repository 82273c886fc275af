"""Files to preferences: every reason counts, whole questions are kept apart, nothing is longer than max_length."""

import json
from pathlib import Path
from typing import Any

import pytest

from direct_alignment.config import DirectAlignmentConfig
from direct_alignment.data import Example, Preferences, load, to_examples, with_mismatched
from direct_alignment.losses import losses
from rlhf.candidates import Candidates
from rlhf.data.answers import Answer, vocabulary_of
from rlhf.data.preferences import Ranking
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.models.policy import load_tokenizer
from rlhf.tasks.problem import Problem, Verdict
from rlhf.text.chat import encode_prompt, end_tokens

TOKENIZER = load_tokenizer("embedded")


def pair(i: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"question {i}", "chosen": f"yes {i}", "rejected": f"no {i}", **more}


def read(
    folder: Path, rows: list[Any], *, loss: str = "dpo", said: list[str] | None = None, **settings: Any
) -> Preferences:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"max_steps": 1, "batch_size": 4, "loss": loss, "data": {"path": str(file), "held_out": 10}, **settings}
    config = DirectAlignmentConfig(**settings)
    return load(config, losses[loss], None, TOKENIZER, say=(said if said is not None else []).append)


def test_the_system_column_stands_in_the_prompt(tmp_path: Path) -> None:
    data = read(tmp_path, [pair(i, system="Only French.") for i in range(20)], system_prompt="Not this.")
    for example in [*data.train, *data.held_out]:
        asked = [{"role": "system", "content": "Only French."}, {"role": "user", "content": example.question}]
        assert example.group.prompt == encode_prompt(TOKENIZER, asked)


def test_all_reasons_count_under_one_rule(tmp_path: Path) -> None:
    """No object, no pair, half an emoji, unknown tokens, too long: 5 of 100 are taken, 5 of 99 are not."""
    half = pair(4, chosen="see \ud83d")
    odd = [["a", "list"], {"prompt": "x"}, half, pair(1, chosen="\u4f60"), pair(2, rejected="a" * 200)]
    rows = [*odd, *(pair(i) for i in range(95))]
    said: list[str] = []
    data = read(tmp_path, rows, max_length=100, said=said)
    assert len(data.train) + len(data.held_out) == 95
    assert "3 of 100 rows and 2 of 97 rows are left out" in said[0]
    assert "line 1: wanted an object with columns, found list" in said[0]
    with pytest.raises(UserError, match="3 of 99 rows and 2 of 96 rows cannot be used"):
        read(tmp_path, rows[:-1], max_length=100)


def test_a_choice_of_the_rows_is_judged_as_a_choice(tmp_path: Path) -> None:
    """4 of 100 rows are no pairs: fewer than 5 %, also where only 10 of the others are trained on."""
    rows = [*[{"prompt": "x"}] * 4, *(pair(i) for i in range(96))]
    said: list[str] = []
    data = read(tmp_path, rows, max_samples=10, said=said)
    assert (len(data.train), len(data.held_out)) == (10, 10)
    assert said[0].startswith("data: 4 of 100 rows are left out")
    long = [pair(i, chosen="a" * 200) for i in range(96)]
    with pytest.raises(UserError, match="20 of 20 rows that were chosen cannot be used"):
        read(tmp_path, long, max_samples=10, max_length=100)


def test_the_same_unknown_tokens_are_not_called_too_long(tmp_path: Path) -> None:
    rows = [pair(i, chosen="\u4f60\u597d", rejected="\u518d\u89c1") for i in range(20)]
    with pytest.raises(UserError, match="the tokenizer does not know") as caught:
        read(tmp_path, rows)
    assert "max_length" not in f"{caught.value.message}{caught.value.hint}"


def test_what_is_shortened_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    data = read(tmp_path, [pair(i) for i in range(20)], max_length=18, said=said)
    assert said == ["data: 20 prompts lose their start to fit into max_length 18 (truncation keep_end)"]
    assert all(len(e.group.prompt) + max(map(len, e.group.completions)) == 18 for e in data.train)


@pytest.mark.parametrize("loss", ["dpo", "kto"])
@pytest.mark.parametrize("first", [["a", "list"], None, {"prompt": "x"}])
def test_an_odd_first_row_does_not_decide(tmp_path: Path, loss: str, first: Any) -> None:
    rows = [first, *(pair(i) for i in range(30))]
    data = read(tmp_path, rows, loss=loss)
    assert {example.desirable for example in data.train} == {(True, False)}


def test_labelled_answers_are_kept_apart_by_question(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i % 30}", "completion": f"answer {i}", "label": i % 4 == 0} for i in range(90)]
    data = read(tmp_path, [None, *rows], loss="kto")
    assert {len(example.desirable) for example in data.train} == {1}
    assert sum(example.desirable[0] for example in [*data.train, *data.held_out]) == 23
    assert not {e.question for e in data.train} & {e.question for e in data.held_out}
    with pytest.raises(UserError, match="--loss kto"):
        read(tmp_path, rows, loss="dpo")


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_labelled_solutions_are_refused_by_name(tmp_path: Path, loss: str) -> None:
    rows = [{"question": f"{i}+1?", "completions": ["2", "1"], "labels": [False, True]} for i in range(20)]
    with pytest.raises(UserError, match=r"20 of 20 rows .*no ranking.*train_orm"):
        read(tmp_path, rows, loss=loss)


# ---------------------------------------------------------------------------------------------------- as it was sampled


def test_own_pairs_keep_their_tokens_and_get_no_end() -> None:
    """Tokens in an order that no tokenizer gives for the text; the wrong one was cut off."""
    x, y, end = TOKENIZER.encode("x")[0], TOKENIZER.encode("y")[0], end_tokens(TOKENIZER)[0]
    vocabulary = vocabulary_of(TOKENIZER)
    answers = [Answer("xy", (y, x, end), True, vocabulary), Answer("y", (y,), False, vocabulary)]
    ranking = Ranking.of_answers([{"role": "user", "content": "q"}], answers)
    limits = {"max_length": 100, "truncation": "keep_end", "system_prompt": "S"}
    (example,) = to_examples(TOKENIZER, [ranking], None, **limits, say=print)
    assert example.group.completions == [[y, x, end], [y]]
    asked = [{"role": "system", "content": "S"}, {"role": "user", "content": "q"}]
    assert example.group.prompt == encode_prompt(TOKENIZER, asked)
    assert example.question == "q"


def test_a_file_of_pairs_is_what_was_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written by sample_pairs and read by --data.path: the same tokens."""
    from direct_alignment import sample_pairs

    x, y, end = TOKENIZER.encode("x")[0], TOKENIZER.encode("y")[0], end_tokens(TOKENIZER)[0]
    vocabulary = vocabulary_of(TOKENIZER)

    def sampled(model_name: str, task: Any, problems: list[Problem], **_: Any) -> list[Candidates]:
        answers = [Answer("xy", (y, x, end), True, vocabulary), Answer("x", (x,), False, vocabulary)]
        verdicts = [Verdict(1.0, 1.0, 1.0), Verdict(0.0, 1.0, 0.0)]
        return [Candidates(problem, answers, verdicts) for problem in problems]

    monkeypatch.setattr("rlhf.candidates.sample_candidates", sampled)
    file = tmp_path / "pairs.jsonl"
    assert sample_pairs.main(["--output", str(file), "--problems", "20", "--candidates", "2"]) == 0
    config = DirectAlignmentConfig(max_steps=1, batch_size=4, data={"path": str(file), "held_out": 4})
    data = load(config, losses["dpo"], None, TOKENIZER, say=print)
    assert [example.group.completions for example in data.train] == [[[y, x, end], [x]]] * len(data.train)


def test_a_file_of_labels_has_every_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One right of three: they are not paired, and nothing balances the classes. What says nothing is left out."""
    from direct_alignment import sample_pairs

    x, end = TOKENIZER.encode("x")[0], end_tokens(TOKENIZER)[0]
    vocabulary = vocabulary_of(TOKENIZER)

    def sampled(model_name: str, task: Any, problems: list[Problem], **_: Any) -> list[Candidates]:
        wrong = Answer("x", (x, end), True, vocabulary)
        answers = [wrong, Answer("xx", (x, x, end), True, vocabulary), wrong, Answer(" ", (), True, "")]
        verdicts = [Verdict(exact, 1.0, exact) for exact in (0.0, 1.0, 0.0, 0.0)]
        return [Candidates(problem, answers, verdicts) for problem in problems]

    monkeypatch.setattr("rlhf.candidates.sample_candidates", sampled)
    file = tmp_path / "labels.jsonl"
    assert sample_pairs.main(["--output", str(file), "--problems", "20", "--rows", "labels"]) == 0
    config = DirectAlignmentConfig(loss="kto", max_steps=1, batch_size=4, data={"path": str(file), "held_out": 6})
    data = load(config, losses["kto"], None, TOKENIZER, say=print)
    found = [(*example.group.completions, example.desirable) for example in [*data.train, *data.held_out]]
    assert found.count(([x, end], (False,))) == 40
    assert found.count(([x, x, end], (True,))) == 20
    assert len(found) == 60


@pytest.mark.parametrize("other", [["--label_noise", "0.1"], ["--reward_model", "embedded"], ["--judge", "embedded"]])
def test_labels_are_the_verifiers(other: list[str], tmp_path: Path) -> None:
    from direct_alignment import sample_pairs

    options = sample_pairs.read_options(["--output", str(tmp_path / "x.jsonl"), "--rows", "labels", *other])
    with pytest.raises(UserError, match="the labels are the verifier's"):
        sample_pairs.write_pairs(options)


def test_pairs_that_a_judge_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The likelier answer is chosen, right or wrong; it says how often that is the verifier's choice."""
    from direct_alignment import sample_pairs

    likely, unlikely = "<think>1+1=2</think><answer>2</answer>", "zzzz"

    def sampled(model_name: str, task: Any, problems: list[Problem], **_: Any) -> list[Candidates]:
        verdicts = [[Verdict(float(i != wrong), 1.0, 0.0) for i in range(2)] for wrong in (0, 1, 1, 1)]
        pairs = zip([Problem(f"{i}+1", f"{i + 1}", {}) for i in range(4)], verdicts, strict=True)
        return [Candidates(problem, [Answer(unlikely), Answer(likely)], own) for problem, own in pairs]

    monkeypatch.setattr("rlhf.candidates.sample_candidates", sampled)
    file = tmp_path / "pairs.jsonl"
    asked = ["--judge", "{model: embedded, by: mean_logp}", "--output", str(file)]
    assert sample_pairs.main(asked) == 0
    rows = [json.loads(line) for line in file.open()]
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows] == [(likely, unlikely)] * 4
    said = capsys.readouterr().out
    assert "agrees with the verifier in 0.250" in said
    assert f"{file}: 4 pairs of 4 problems; 0.50 of the completions are right" in said


# --------------------------------------------------------------------------------------------------- the policy's own


class Task:
    """Problems by number; of problem 2 all answers are right."""

    name, fingerprint, verifies = "numbered", "f", True

    def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]:
        return [Problem(f"train {seed}: {i}", str(i), {}) for i in range(first, first + count)]

    def held_out_problems(self, count: int) -> list[Problem]:
        return [Problem(f"held out {i}", str(i), {}) for i in range(count)]

    def verify(self, problem: Problem, completion: str) -> Verdict:
        raise AssertionError("nothing is verified here")


def own_pairs(monkeypatch: pytest.MonkeyPatch, *, exact: Any = None, said: list[str] | None = None, **settings: Any):
    """The data, and how candidates were asked for: four a problem, of which the second and the fourth are right."""
    asked: list[tuple] = []

    def sampled(model_name: str, task: Any, problems: list[Problem], **how: Any) -> list[Candidates]:
        asked.append((model_name, task, [problem.question for problem in problems], how))
        texts = [Answer(f"answer {j}") for j in range(how["count"])]
        verdicts = [Verdict(float(j % 2) if exact is None else exact, 1.0, 0.0) for j in range(how["count"])]
        return [
            Candidates(it, texts, [Verdict(1.0, 1.0, 0.0)] * len(texts) if it.answer == "2" else verdicts)
            for it in problems
        ]

    monkeypatch.setattr("direct_alignment.data.sample_candidates", sampled)
    data = {"path": "on_policy", "held_out": 4, "problems": 6, "candidates": 4, "per_problem": 2}
    fixed = {"max_steps": 1, "batch_size": 2, "task": "step_arithmetic", "max_new_tokens": 17, "seed": 5}
    config = DirectAlignmentConfig(**{**fixed, "system_prompt": "Be brief.", "data": data, **settings})
    task, heard = Task(), [] if said is None else said
    return load(config, losses[config.loss], task, TOKENIZER, say=heard.append), asked, task


def test_own_pairs_are_of_training_and_of_held_out_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two a problem that has both kinds: five of six, and three of four. Held-out ones are the same for every seed."""
    said: list[str] = []
    data, asked, task = own_pairs(monkeypatch, said=said)
    how = {"count": 4, "max_new_tokens": 17, "system_prompt": "Be brief.", "tokenizer": TOKENIZER}
    assert asked == [
        ("embedded", task, [f"train 5: {i}" for i in range(6)], how | {"seed": 5}),
        ("embedded", task, [f"held out {i}" for i in range(4)], how | {"seed": 0}),
    ]
    assert (len(data.train), len(data.held_out), data.seed) == (10, 6, 5)
    assert {e.question for e in data.train} == {f"train 5: {i}" for i in (0, 1, 3, 4, 5)}
    assert {e.question for e in data.held_out} == {f"held out {i}" for i in (0, 1, 3)}
    assert [e.question for e in data.train] != sorted(e.question for e in data.train), "shuffled"
    for example in [*data.train, *data.held_out]:
        chosen, rejected = (TOKENIZER.decode(c, skip_special_tokens=True) for c in example.group.completions)
        assert (int(chosen[-1]) % 2, int(rejected[-1]) % 2) == (1, 0)
        asked_as = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": example.question}]
        assert example.group.prompt == encode_prompt(TOKENIZER, asked_as)
    assert said[0] == "data: sampling 4 completions of 6 problems, unless the cache has them"
    assert [e.group for e in own_pairs(monkeypatch)[0].train] == [e.group for e in data.train]
    few, _, _ = own_pairs(monkeypatch, max_samples=3)
    assert [e.group for e in few.train] == [e.group for e in data.train[:3]]
    assert len(few.held_out) == 6


@pytest.mark.parametrize("exact", [0.0, 1.0])
def test_own_pairs_need_both_kinds(monkeypatch: pytest.MonkeyPatch, exact: float) -> None:
    with pytest.raises(UserError, match="embedded has all completions of a problem right or all wrong on step_arith"):
        own_pairs(monkeypatch, exact=exact)


def test_a_fingerprint_follows_tokens_and_labels(tmp_path: Path) -> None:
    """Of all examples, in their order."""
    rows = [{"prompt": f"question {i}", "completion": f"answer {i}", "label": i % 2 == 0} for i in range(20)]
    first = read(tmp_path, rows, loss="kto").fingerprint
    assert read(tmp_path, rows, loss="kto").fingerprint == first
    assert len(first) == 16
    others = [
        read(tmp_path, [{**rows[0], "label": False}, *rows[1:]], loss="kto"),
        read(tmp_path, [{**rows[0], "completion": "another"}, *rows[1:]], loss="kto"),
        read(tmp_path, rows, loss="kto", seed=1),
    ]
    assert len({first, *(data.fingerprint for data in others)}) == 4


def test_which_rows_are_trained_on_follows_the_seed(tmp_path: Path) -> None:
    """What is held out does not."""
    one, two = (read(tmp_path, [pair(i) for i in range(40)], seed=seed, max_samples=10) for seed in (0, 1))
    assert [e.question for e in one.held_out] == [e.question for e in two.held_out]
    assert [e.question for e in one.train] != [e.question for e in two.train]
    assert len(one.train) == len(two.train) == 10
    assert len(read(tmp_path, [pair(i) for i in range(40)]).train) == 32


# ---------------------------------------------------------------------------------------------- KTO's mismatched texts


def example(prompt: int, *lengths: int) -> Example:
    """A prompt of so many tokens, completions of others; of each the first does not count."""
    completions = [[10 * prompt + length] * length for length in lengths]
    counts = [[False] + [True] * (length - 1) for length in lengths]
    return Example(Group([prompt] * prompt, completions, counts), (True,) * len(lengths))


@pytest.mark.parametrize("truncation", ["keep_end", "keep_start"])
def test_mismatched_texts_fit_into_max_length(truncation: str) -> None:
    """A long answer behind a long prompt would be twice as long: the next example's answer that fits is taken."""
    examples = [example(8, 2), example(2, 8), example(3, 2), example(4, 1)]
    made = [e.mismatched for e in with_mismatched(examples, max_length=10, truncation=truncation)]
    assert [group.prompt for group in made] == [e.group.prompt for e in examples]
    assert all(len(group.prompt) + len(group.completions[0]) <= 10 for group in made)
    taken = [examples[2], examples[2], examples[3], examples[0]]
    assert [(g.completions, g.loss_mask) for g in made] == [(e.group.completions, e.group.loss_mask) for e in taken]


def test_where_none_fits_truncation_says_what_is_cut() -> None:
    """Prompts of 8 and 7 with answers of 2 and 3 in 10 tokens: 8 + 3 is one too many."""
    examples = [example(8, 2), example(7, 3, 1)]
    first, second = with_mismatched(examples, max_length=10, truncation="keep_start")
    assert (first.mismatched.prompt, first.mismatched.completions) == ([8] * 8, [[73, 73], [71]])
    assert first.mismatched.loss_mask == [[False, True], [False]]
    assert second.mismatched.completions == [[82, 82]]
    first, _ = with_mismatched(examples, max_length=10, truncation="keep_end")
    assert (first.mismatched.prompt, first.mismatched.completions) == ([8] * 7, [[73, 73, 73], [71]])


def test_one_prompt_has_no_others() -> None:
    with pytest.raises(UserError, match="only one prompt"):
        with_mismatched([example(8, 2), example(8, 3)], max_length=99, truncation="keep_end")


def test_labels_of_two_conventions_are_refused(tmp_path: Path) -> None:
    rows = [{"messages": talk(i), "label": (1, -1)[i % 2]} for i in range(20)]
    assert read(tmp_path, rows, loss="kto").train
    with pytest.raises(UserError, match=r"-1 \(.* line 2: label -1\) and of 0 \(.* line 20: label 0\)"):
        read(tmp_path, [*rows[:-1], {**rows[-1], "label": 0}], loss="kto")


def talk(i: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}]
