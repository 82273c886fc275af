"""Mixtures of tasks."""

from rlhf.tasks.matching import MATCHES
from rlhf.tasks.mixture import OF_TASK, Mixture
from rlhf.tasks.problem import Problem, Verdict
from rlhf.tasks.prompts import Prompts
from rlhf.tasks.registry import open_task


def test_mixtures_keep_to_their_weights_and_judge_by_the_right_task() -> None:
    tasks = {name: open_task(name, {}, answer_in="think_tags") for name in ("spell_backward", "step_arithmetic")}
    mixture = Mixture(tasks, {"spell_backward": 3.0, "step_arithmetic": 1.0})
    problems = mixture.train_problems(seed=0, first=0, count=400)
    share = sum(p.entry[OF_TASK] == "spell_backward" for p in problems) / 400
    assert 0.68 < share < 0.82
    assert mixture.train_problems(seed=0, first=5, count=3) == problems[5:8]
    for problem in problems[:20]:
        assert mixture.verify(problem, f"<think></think><answer>{problem.answer}</answer>").exact == 1
        assert mixture.verify(problem, "<think></think><answer>-5</answer>").exact == 0
    assert len(mixture.held_out_problems(3)) == 6


class Counted:
    """A task whose problems say what they were asked for by."""

    def __init__(self, name: str):
        self.name, self.fingerprint, self.verifies = name, f"fingerprint of {name}", True

    def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]:
        return [Problem(f"{self.name} {seed} {i}", f"{i}", {"own": i}) for i in range(first, first + count)]

    def held_out_problems(self, count: int) -> list[Problem]:
        return [Problem(f"{self.name} held out {i}", f"{i}", {}) for i in range(count)]

    def verify(self, problem: Problem, completion: str) -> Verdict:
        return Verdict(float(completion == f"{self.name} {problem.answer}"), 0.0, 0.0)


def test_a_mixture_asks_each_problem_by_its_number() -> None:
    """Problem i is some task's own number i, so none comes twice; which task's, depends on seed and i alone."""
    tasks = {name: Counted(name) for name in ("a", "b", "c")}
    mixture = Mixture(tasks, {"a": 1.0, "b": 1.0, "c": 2.0})
    problems = mixture.train_problems(seed=3, first=10, count=200)
    for number, problem in enumerate(problems, 10):
        assert problem.question == f"{problem.entry[OF_TASK]} 3 {number}"
        assert problem.entry["own"] == number, "what the task itself keeps stays"
        assert mixture.verify(problem, f"{problem.entry[OF_TASK]} {number}").exact == 1
        others = tasks.keys() - {problem.entry[OF_TASK]}
        assert all(mixture.verify(problem, f"{other} {number}").exact == 0 for other in others)
    one_by_one = [mixture.train_problems(seed=3, first=10 + i, count=1)[0] for i in range(200)]
    assert one_by_one == problems
    drawn = [it.entry[OF_TASK] for it in problems]
    assert [it.entry[OF_TASK] for it in mixture.train_problems(seed=4, first=10, count=200)] != drawn
    counts = [drawn.count(name) for name in ("a", "b", "c")]
    assert abs(counts[0] - 50) < 20
    assert abs(counts[1] - 50) < 20
    assert abs(counts[2] - 100) < 25


def test_a_mixture_holds_out_as_many_of_each() -> None:
    mixture = Mixture({name: Counted(name) for name in ("a", "b")}, {"a": 5.0, "b": 1.0})
    held_out = [(it.entry[OF_TASK], it.question) for it in mixture.held_out_problems(2)]
    assert held_out == [(name, f"{name} held out {i}") for name in ("a", "b") for i in range(2)]
    assert mixture.name == "a + b"


def test_a_mixtures_fingerprint_tells_tasks_and_weights() -> None:
    def fingerprint(names: str, *weights: float) -> str:
        return Mixture({n: Counted(n) for n in names}, dict(zip(names, weights, strict=True))).fingerprint

    found = [fingerprint("ab", 1, 1), fingerprint("ab", 1, 2), fingerprint("ac", 1, 1), fingerprint("ba", 1, 1)]
    assert len(set(found)) == 4
    assert fingerprint("ab", 1, 1) == found[0]


def test_a_mixture_verifies_what_any_of_its_tasks_does() -> None:
    """A problem without an answer has no verdict; the others keep theirs."""
    spell = open_task("spell_backward", {}, answer_in="text")
    asked = Problem("Say something.", "", {})
    free = Prompts([asked], [asked], match=MATCHES["none"], answer_in="text")
    mixture = Mixture({"spell_backward": spell, "prompts": free}, {"spell_backward": 1.0, "prompts": 1.0})
    assert mixture.verifies
    assert not Mixture({"prompts": free}, {"prompts": 1.0}).verifies
    for problem in mixture.train_problems(seed=0, first=0, count=8):
        verdict = mixture.verify(problem, problem.answer)
        assert (verdict is None) == (problem.entry[OF_TASK] == "prompts")
