"""Worked solutions of the laptop tasks, some of them wrong on purpose.

A base model for reinforcement learning should know more than it shows. One that is merely stopped early lacks the
facts. One whose demonstrations are partly wrong keeps them: its most likely answer is right, since each mistake is
another one, while its sampled answer is right only as often as its demonstrations were.
"""

from random import Random
from string import ascii_lowercase

from rlhf.tasks.problem import Problem
from rlhf.tasks.step_arithmetic import solve
from rlhf.text.chat import Message


def demonstrate(problem: Problem, task: str, *, wrong: bool, rng: Random) -> list[Message]:
    """A question and its worked answer; with `wrong`, one mistake, carried through to the answer."""
    solution = {"spell_backward": _spell, "step_arithmetic": _calculate}[task](problem, wrong, rng)
    return [{"role": "user", "content": problem.question}, {"role": "assistant", "content": solution}]


def _spell(problem: Problem, wrong: bool, rng: Random) -> str:
    """The letters one by one, then backward, then joined."""
    word = problem.entry["metadata"]["word"]
    letters = list(reversed(word))
    if wrong:
        letters = _misspell(letters, rng)
    return f"<think>{' '.join(word)}\n{' '.join(letters)}</think><answer>{''.join(letters)}</answer>"


def _misspell(letters: list[str], rng: Random) -> list[str]:
    """Another letter, two swapped, or one left out. The verifier does not tell A from a, so neither counts as other."""
    same = [letter.lower() for letter in letters]
    at = rng.randrange(len(letters))
    kind = rng.choice(("replace", "swap", "drop"))
    if kind == "replace" or len(set(same)) == 1:
        other = rng.choice([c for c in ascii_lowercase if c != same[at]])
        return [*letters[:at], other, *letters[at + 1 :]]
    if kind == "drop":
        return [*letters[:at], *letters[at + 1 :]]
    unequal = [i for i in range(len(letters) - 1) if same[i] != same[i + 1]]
    i = rng.choice(unequal)
    return [*letters[:i], letters[i + 1], letters[i], *letters[i + 2 :]]


def _calculate(problem: Problem, wrong: bool, rng: Random) -> str:
    """One equation a line, each followed by what is left to do."""
    expression = problem.entry["metadata"]["expression"]
    lines = solve(expression) or []
    while wrong:  # until the mistake leaves no later result negative
        step = rng.randrange((len(lines) + 1) // 2)  # every other line is an equation
        mistaken = solve(expression, wrong_step=step, error=rng.choice((-3, -2, -1, 1, 2, 3)))
        if mistaken is not None:
            lines, wrong = mistaken, False
    return "<think>" + "\n".join(lines) + f"</think><answer>{lines[-1].split('=')[-1]}</answer>"
