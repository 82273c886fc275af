"""Candidates: what is kept is what was asked for, and every verdict is that of its own text."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from steps_by_hand import save_tiny

from rlhf.candidates import Candidates, sample_candidates, to_rankings
from rlhf.data.answers import Answer
from rlhf.embedded.make import character_tokenizer
from rlhf.sampling import SampledCompletions
from rlhf.tasks.problem import Problem, Verdict
from rlhf.tasks.procedural import ProceduralTask

PROBLEMS = [Problem(f"What is {i}?", str(i), {}) for i in range(3)]


class Parity:
    """Right is what begins with the problem's own answer."""

    def verify(self, problem: Problem, completion: str) -> Verdict:
        return Verdict(float(completion.startswith(problem.answer)), float(len(completion)), 0.0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict]:
    """What `sample` was called with, each time; it answers "problem-completion", by number."""
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    calls: list[dict] = []
    tokenizer = character_tokenizer()

    def sample(model, prompts, *, completions: int, **named) -> list[SampledCompletions]:
        embedding = float(model.get_input_embeddings().weight.detach().sum())
        calls.append({"prompts": prompts, "completions": completions, "model": embedding, **named})
        texts = [[f"{i}-{j}" for j in range(completions)] for i in range(len(prompts))]
        tokens = [[[*tokenizer.encode(text), named["end_tokens"][0]] for text in own] for own in texts]
        logp = [[[-1.0] * len(it) for it in own] for own in tokens]
        return [SampledCompletions(a, b, [False] * completions) for a, b in zip(tokens, logp, strict=True)]

    monkeypatch.setattr("rlhf.candidates.sample", sample)
    return calls


SETTINGS = {"count": 2, "max_new_tokens": 6, "seed": 0, "temperature": 1.0, "system_prompt": None}


def test_what_must_be_sampled_anew(asked: list[dict], tmp_path: Path) -> None:
    """Everything that the completions depend on is in the key: the model's weights, the problems and their order, and
    each setting of sampling; nothing else is."""
    model, other = str(save_tiny(tmp_path / "a")), str(save_tiny(tmp_path / "b", seed=1))
    base = dict(model_name=model, task=Parity(), problems=PROBLEMS, **SETTINGS)
    first = sample_candidates(**base)
    assert len(asked) == 1
    assert sample_candidates(**base) == first
    assert len(asked) == 1, "taken from the cache"
    changes = [
        *({"count": 3}, {"max_new_tokens": 7}, {"seed": 1}, {"temperature": 0.5}, {"system_prompt": "Be brief."}),
        *({"problems": PROBLEMS[:2]}, {"problems": PROBLEMS[::-1]}, {"model_name": other}),
    ]
    for number, change in enumerate(changes, 2):
        sample_candidates(**(base | change))
        assert len(asked) == number, f"{change} was answered with what was sampled for something else"
    assert sample_candidates(**base) == first
    assert len(asked) == len(changes) + 1


def test_what_is_asked_for_is_what_is_sampled(asked: list[dict], tmp_path: Path) -> None:
    model, other = str(save_tiny(tmp_path / "a")), str(save_tiny(tmp_path / "b", seed=1))
    settings = {"count": 3, "max_new_tokens": 5, "seed": 4, "temperature": 0.7, "system_prompt": "Be brief."}
    for name in (model, other):
        sample_candidates(name, Parity(), PROBLEMS, **settings)
    call, its = asked
    assert (call["completions"], call["max_new_tokens"], call["temperature"]) == (3, 5, 0.7)
    assert call["model"] != its["model"]
    tokenizer = character_tokenizer()
    for problem, prompt in zip(PROBLEMS, call["prompts"], strict=True):
        text = tokenizer.decode(prompt)
        assert "Be brief." in text
        assert problem.question in text


def test_random_numbers_of_candidates_are_their_own(asked: list[dict], tmp_path: Path) -> None:
    """Another seed or another problem, other random numbers; none of them those of training, whose keys are (seed,
    number)."""
    model = str(save_tiny(tmp_path / "a"))
    keys = []
    for seed in (0, 1, 2):
        sample_candidates(model, Parity(), PROBLEMS, **(SETTINGS | {"seed": seed}))
        keys += [tuple(key) for key in asked[-1]["keys"]]
    training = [(seed, number) for seed in (0, 1, 2) for number in range(10)]
    assert len({*keys, *training}) == len(keys) + len(training)


def test_each_verdict_is_that_of_its_own_text(asked: list[dict], tmp_path: Path) -> None:
    made = sample_candidates(str(save_tiny(tmp_path / "a")), Parity(), PROBLEMS, **SETTINGS)
    assert len(asked) == 1
    for i, one in enumerate(made):
        assert one.problem == PROBLEMS[i]
        assert list(one.texts) == [f"{i}-0", f"{i}-1"]
        assert one.verdicts == [Verdict(1.0, 3.0, 0.0)] * 2
    wrong = sample_candidates(
        str(tmp_path / "a"), Parity(), [Problem(it.question, "9", {}) for it in PROBLEMS], **SETTINGS
    )
    assert len(asked) == 1, "verdicts are not kept"
    assert all(verdict.exact == 0 for one in wrong for verdict in one.verdicts)


def test_pairs_are_a_right_and_a_wrong_completion(asked: list[dict], tmp_path: Path) -> None:
    """At most so many a problem, none twice, every one possible, by the seed and the question alone."""

    class Half:
        def verify(self, _: Problem, completion: str) -> Verdict:
            return Verdict(float(int(completion[-1]) % 2), 1.0, 0.0)

    made = sample_candidates(str(save_tiny(tmp_path / "a")), Half(), PROBLEMS, **(SETTINGS | {"count": 6}))
    seen: Counter[tuple[str, str]] = Counter()
    for seed in range(40):
        rankings = to_rankings(made, seed=seed, per_problem=2)
        found = [(it.question, *(side[0]["content"] for side in it.completions)) for it in rankings]
        assert len(found) == len(set(found)) == 6
        assert found == [
            (it.question, *(side[0]["content"] for side in it.completions))
            for one in made
            for it in to_rankings([one], seed=seed, per_problem=2)
        ], "other problems make no difference"
        for question, right, wrong in found:
            number = question.split()[-1].removesuffix("?")
            assert right[0] == wrong[0] == number
            assert (int(right[-1]) % 2, int(wrong[-1]) % 2) == (1, 0)
            seen[right[2:], wrong[2:]] += 1
    assert len(seen) == 9, "each right one meets each wrong one"
    assert torch.tensor(list(seen.values())).float().std() < 12


def test_candidates_are_sampled_once_and_verified(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path))
    task = ProceduralTask("step_arithmetic")
    problems = task.train_problems(seed=0, first=0, count=3)
    arguments = {"count": 4, "max_new_tokens": 96, "seed": 0}
    first = sample_candidates("embedded", task, problems, **arguments)
    monkeypatch.setattr("rlhf.candidates.sample", lambda *_, **__: pytest.fail("sampled again"))
    assert sample_candidates("embedded", task, problems, **arguments) == first
    for one in first:
        assert one.verdicts == [task.verify(one.problem, text) for text in one.texts]
    with pytest.raises(pytest.fail.Exception):
        sample_candidates("embedded", task, problems, **(arguments | {"seed": 1}))


def test_rankings_of_candidates() -> None:
    """Right before wrong, of the same problem; none where there is no contrast; the same for the same seed."""

    def candidates(question: str, texts: str, exact: str) -> Candidates:
        verdicts = [Verdict(float(e), 1.0, 0.0) for e in exact]
        return Candidates(Problem(question, "", {}), [Answer(text) for text in texts], verdicts)

    both = candidates("q", "aabcd", "11000")
    pairs = [
        (r.completions[0][0]["content"], r.completions[1][0]["content"])
        for r in to_rankings([both], seed=0, per_problem=9)
    ]
    assert sorted(pairs) == [("a", "b"), ("a", "c"), ("a", "d")]
    assert to_rankings([candidates("q", "ab", "11"), candidates("r", "ab", "00")], seed=0) == []
    assert to_rankings([both], seed=3) == to_rankings([candidates("x", "ab", "10"), both], seed=3)[1:]


def test_completions_of_other_lengths_stay_apart(monkeypatch, tmp_path: Path) -> None:
    """What is kept is one row of tokens; it is cut where each completion ended, and an empty one stays empty."""
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    model, tokenizer = str(save_tiny(tmp_path / "a")), character_tokenizer()
    texts = [["0", ""], ["1 and more", "no"], ["", "2"]]

    def sample(_model, prompts, *, completions: int, end_tokens, **_) -> list[SampledCompletions]:
        tokens = [[[*tokenizer.encode(text), end_tokens[0]] if text else [] for text in own] for own in texts]
        return [SampledCompletions(own, [[-1.0] * len(it) for it in own], [False] * completions) for own in tokens]

    monkeypatch.setattr("rlhf.candidates.sample", sample)
    for _ in range(2):  # as sampled, and from the cache
        made = sample_candidates(model, Parity(), PROBLEMS, **SETTINGS)
        assert [one.texts for one in made] == texts
        assert [[answer.ended for answer in one.answers] for one in made] == [[bool(t) for t in own] for own in texts]
        assert [[v.exact for v in one.verdicts] for one in made] == [[1, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("device", "precision", "wanted"), [("cpu", "bf16", False), ("cuda", "fp32", False), ("cuda", "bf16", True)]
)
def test_bf16_is_for_gpus_that_have_it(asked, monkeypatch, tmp_path, device: str, precision: str, wanted: bool) -> None:
    class Model:
        def to(self, place: torch.device) -> None:
            moved.append(place.type)

        def get_input_embeddings(self) -> torch.nn.Embedding:
            return torch.nn.Embedding(1, 1)

    def autocast(kind: str, dtype: torch.dtype, *, enabled: bool) -> nullcontext:
        casts.append((kind, dtype, enabled))
        return nullcontext()

    moved: list[str] = []
    casts: list[tuple[str, torch.dtype, bool]] = []
    monkeypatch.setattr("rlhf.candidates.open_device", lambda wanted: torch.device(device if wanted == "auto" else "x"))
    monkeypatch.setattr("rlhf.candidates.load", lambda name, **_: (Model(), None))
    monkeypatch.setattr("rlhf.candidates.choose_precision", lambda asked, place: precision if asked == "auto" else "")
    monkeypatch.setattr("rlhf.candidates.torch.autocast", autocast)
    sample_candidates(str(save_tiny(tmp_path / "a")), Parity(), PROBLEMS, **SETTINGS)
    assert moved == [device]
    assert casts == [(device, torch.bfloat16, wanted)]


def test_pairs_of_candidates_by_hand() -> None:
    """Answers of white space are no answers; partial credit is neither right nor wrong; one pair is the default."""
    problem = Problem("q", "", {})
    texts, exact = [" ", "a", "b", "\n", "c", "d"], [1.0, 1.0, 0.0, 0.0, 0.5, 0.0]
    one = Candidates(problem, [Answer(text) for text in texts], [Verdict(e, 1.0, 0.0) for e in exact])
    (ranking,) = to_rankings([one], seed=0)
    assert ranking.prompt == [{"role": "user", "content": "q"}]
    assert ranking.margin is None
    all_pairs = {tuple(answer.text for answer in it.answers) for it in to_rankings([one], seed=0, per_problem=9)}
    assert all_pairs == {("a", "b"), ("a", "d")}
    assert tuple(answer.text for answer in ranking.answers) in all_pairs
    short = Candidates(problem, one.answers[:-1], one.verdicts)
    with pytest.raises(ValueError, match="argument 2 is"):
        to_rankings([short], seed=0)


def test_pairs_of_a_conversation_have_its_messages() -> None:
    """And an answer without a verdict is in no pair."""
    asked = ({"role": "system", "content": "S"}, {"role": "user", "content": "q"})
    verdicts = [Verdict(1.0, 1.0, 0.0), Verdict(0.0, 1.0, 0.0), None]
    one = Candidates(Problem("system: S\n\nuser: q", "", {}, prompt=asked), [Answer(c) for c in "abc"], verdicts)
    (ranking,) = to_rankings([one], seed=0, per_problem=9)
    assert ranking.prompt == [*asked]
    assert [answer.text for answer in ranking.answers] == ["a", "b"]


def test_noisy_labels_are_swapped_or_prefer_the_longer() -> None:
    """Of 300 pairs each. `swap` chooses the wrong one at its probability. `longer` chooses the longer one: it is wrong
    where the wrong one is longer, and never where the right one is, or both have one length."""

    def share_wrong(right: str, wrong: str, **noise: Any) -> float:
        problems = [Problem(f"q{i}", "", {}) for i in range(300)]
        verdicts = [Verdict(1.0, 1.0, 1.0), Verdict(0.0, 1.0, 0.0)]
        made = [Candidates(problem, [Answer(right), Answer(wrong)], verdicts) for problem in problems]
        return sum(it.answers[0].text == wrong for it in to_rankings(made, seed=0, **noise)) / 300

    assert share_wrong("a", "b") == 0
    assert share_wrong("a", "b", label_noise=1.0) == 1
    assert share_wrong("a", "b", label_noise=0.3) == pytest.approx(0.3, abs=0.08)
    assert share_wrong("a", "bb", label_noise=0.3, noise="longer") == pytest.approx(0.3, abs=0.08)
    assert share_wrong("aa", "b", label_noise=1.0, noise="longer") == 0
    assert share_wrong("a", "b", label_noise=1.0, noise="longer") == 0
