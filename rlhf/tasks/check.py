"""Every task's verifier against odd answers: python -m rlhf.tasks.check [--tasks A,B] [--write docs/tasks.md]

20 problems of each task, each with 16 answers that are wrong, malformed, huge or hostile, and with its own. None may
run, raise, take two seconds, or be right. Takes some minutes for all tasks.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.errors import UserError, run_main

PROBLEMS = 20
SECONDS = 2.0


@dataclass(frozen=True)
class Examined:
    """What came out of a task's verdicts."""

    name: str
    unfit: str = ""  # why it cannot be trained on
    verifier: str = ""  # own, text or guarded
    ends: bool = False  # the data set ends, and is made anew
    own_right: str = ""  # of the task's own answers: '20/20', or '-' where it has none
    wrong_right: tuple[str, ...] = ()  # odd answers that were right
    others_right: int = 0  # answers to another problem that solve this one too, which some kinds of problem allow
    failed: int = 0  # verdicts that were an exception or took too long, and count as wrong
    longest: float = 0.0  # seconds of a verdict
    executed: bool = False

    @property
    def holds(self) -> bool:
        """No odd answer ran, was right, or took too long; `why_unfit` has looked at those of other problems."""
        return bool(self.unfit) or not (self.wrong_right or self.executed or self.longest > SECONDS)


def odd_answers(canary: Path) -> list[str]:
    """15 answers that are right nowhere; the 16th is that of another problem."""
    return [
        *("", " \n", "0", "nan", "None", "[]", "junk text", "\ud83d\x00", "-1e999", "1/0", "8**8**8"),
        f"__import__('pathlib').Path({str(canary)!r}).touch()",
        "[" * 5000,
        "R99999999999 F99999999999",
        '[NaN, NaN, {"a": "' + "x" * 20_000 + '"}]',
    ]


def examine(name: str, *, problems: int = PROBLEMS) -> Examined:
    from rlhf.tasks.procedural import ProceduralTask
    from rlhf.tasks.verifier_checks import differ, is_right, short

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        canary = Path(folder) / "TOUCHED"
        try:
            task = ProceduralTask(name)
        except UserError as error:
            return Examined(name, unfit=error.message)
        drawn = task.some_problems(problems)
        wrong, others, failed, longest = [], 0, 0, 0.0
        for number, problem in enumerate(drawn):
            other = drawn[(number + 1) % len(drawn)].answer
            for answer in [other, *odd_answers(canary)]:
                began = time.monotonic()
                score, why = task.score(problem, answer)
                longest = max(longest, time.monotonic() - began)
                failed += bool(why)
                if score == 1.0 and differ(answer, problem.answer):
                    others += answer == other
                    wrong += [] if answer == other else [short(answer)]
        answered = [problem for problem in drawn if problem.answer]
        right = sum(is_right(task, problem, problem.answer) for problem in answered)
        return Examined(
            name,
            verifier=task.verified_by,
            ends=task.ends,
            own_right=f"{right}/{len(answered)}" if answered else "-",
            wrong_right=tuple(wrong),
            others_right=others,
            failed=failed,
            longest=longest,
            executed=canary.exists(),
        )


def as_page(found: Sequence[Examined]) -> str:
    """Markdown."""
    lines = [
        "# Tasks",
        "",
        "How the answers to each task are verified. From `uv run python -m rlhf.tasks.check --write docs/tasks.md`:",
        f"{PROBLEMS} problems of each with its default parameters, 16 odd answers to each problem.",
        "",
        "- *own*: by a verifier of this project (rlhf/tasks/verifiers.py), since reasoning-gym's evaluates answers or",
        "  calls wrong ones right.",
        "- *text*: by reasoning-gym's, which only compares texts.",
        "- *guarded*: by reasoning-gym's, in a process without rights that has 1.5 s an answer",
        "  (rlhf/tasks/verifier_worker.py). An answer at which it fails is wrong. Of some tasks, what it calls right",
        "  must be so as a whole (rlhf/tasks/conditions.py).",
        "- *unfit*: the task is refused.",
        "",
        "Where a task has no answer of its own (`-`), any that solves the problem is right.",
        "",
        "| task | verified | own answers right | odd answers right | failed verdicts | notes |",
        "|---|---|---|---|---|---|",
    ]
    for it in found:
        if it.unfit:
            lines.append(f"| {it.name} | unfit | | | | {it.unfit.replace('|', ' ')} |")
            continue
        notes = ["ends after its `size`; made anew for an endless stream"] if it.ends else []
        if it.others_right:
            notes.append(f"{it.others_right} answers to another problem solve it too")
        if it.wrong_right:
            notes.append("called right: " + ", ".join(sorted(set(it.wrong_right))[:3]).replace("|", " "))
        cells = [it.name, it.verifier, it.own_right, str(len(it.wrong_right)), str(it.failed), "; ".join(notes)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rlhf.tasks.check", description="Try every task's verifier.")
    parser.add_argument("--tasks", default="all", metavar="A,B", help="names separated by commas (default: all)")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="write the table there too")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    from rlhf.tasks.procedural import DATASETS

    found = []
    for name in sorted(DATASETS) if options.tasks == "all" else options.tasks.split(","):
        began = time.monotonic()
        it = examine(name)
        found.append(it)
        word = (
            "unfit: " + it.unfit if it.unfit else f"{it.verifier}, own {it.own_right}, odd right {len(it.wrong_right)}"
        )
        mark = "ok  " if it.holds else "FAIL"
        print(
            f"{mark} {name}: {word}, failed {it.failed}, longest {it.longest:.2f} s ({time.monotonic() - began:.1f} s)"
        )
        sys.stdout.flush()
    if options.write:
        options.write.write_text(as_page(found))
    bad = [it.name for it in found if not it.holds]
    print(f"{len(found)} tasks, {sum(bool(it.unfit) for it in found)} unfit, {len(bad)} do not hold: {', '.join(bad)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
