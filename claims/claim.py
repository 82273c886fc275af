"""What a claim is: a sentence of a paper, arms that differ in one thing, what is measured, and what is expected.

A claim is a file in one of the folders beside this one, and its name is that of the file. It publishes

    CLAIM = Claim(
        sentence="Dr. GRPO's wrong completions are shorter than GRPO's.",
        paper=Paper("Liu et al.", 2025, "Understanding R1-Zero-Like Training", "2503.20783"),
        command="policy_gradients.train",
        shared={"max_steps": 40},
        arms={
            "GRPO": Arm("divides by the length", {"algorithm": "grpo"}),
            "Dr. GRPO": Arm("does not", {"algorithm": "drgrpo"}),
        },
        measures=[Measure("length", "tokens", "mean length of wrong completions", of_run)],
        expected=[Expect("Dr. GRPO", "<", "GRPO")],
        text="...",
    )

or, in place of `command` and `shared`, `compute`: a function of a seed that needs no training run. Light: nothing here
loads PyTorch, and a claim's file imports what does inside the functions that need it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

type Numbers = Mapping[str, Mapping[str, float]]  # of one seed: by arm, then by measure
type Sign = Literal["<", ">", "="]


@dataclass(frozen=True)
class Paper:
    """Where the claim is made."""

    authors: str
    year: int
    title: str
    arxiv: str | None = None

    @property
    def text(self) -> str:
        link = f", [arXiv {self.arxiv}](https://arxiv.org/abs/{self.arxiv})" if self.arxiv else ""
        return f"{self.authors}, {self.year}, “{self.title}”{link}"


@dataclass(frozen=True)
class RunOf:
    """A setting whose value is the path of what `before` makes under this name, with the same seed."""

    name: str


@dataclass(frozen=True)
class SeedPlus:
    """A setting whose value is the seed and a number more: of data, or of one of several equal runs."""

    number: int = 0


@dataclass(frozen=True)
class Arm:
    """One of the sides that are compared.

    Args:
        what: what it does that the others do not, in words.
        settings: what differs from `shared`; None: no run of its own, `over_runs` finds its numbers.
        command: the module of another command than the claim's.
        line, x: arms of one line stand in the picture at their x, and a line connects them.
    """

    what: str
    settings: Mapping[str, Any] | None = field(default_factory=dict)
    command: str = ""
    line: str = ""
    x: float | None = None


@dataclass(frozen=True)
class File:
    """A file to make before the runs: `python -m command --KEY VALUE ... --seed SEED --output FILE`."""

    command: str
    settings: Mapping[str, Any]
    suffix: str = ".jsonl"


@dataclass(frozen=True)
class Measure:
    """A number of each arm and seed, and how two of them are compared.

    Args:
        name: as the page, the picture and `Expect` call it.
        unit: "tokens", "nats", "share of completions", ... Intervals of shares are cut at 0 and 1.
        what: how it is found, in a sentence; decided before the runs.
        of_run: from a run directory to the number; None: `compute` or `over_runs` gives it. nan: there is none.
        ratio: arms are compared by their ratio instead of their difference; all values are above 0.
        drawn: whether the picture has it; the page has all.
    """

    name: str
    unit: str
    what: str
    of_run: Callable[[Path], float] | None = None
    ratio: bool = False
    drawn: bool = True

    @property
    def bounds(self) -> tuple[float, float]:
        return _bounds(self.unit)


@dataclass(frozen=True)
class Expect:
    """What the claim says of two arms, or of an arm and a number: `Expect("DPO", "<", 0.0, of="chosen")`.

    Args:
        of: the name of a measure; "": the first.
        within: of "=": how far from equal still counts as equal, in the measure's unit (or as a ratio, from 1).
    """

    left: str
    sign: Sign
    right: str | float
    of: str = ""
    within: float = 0.0


@dataclass(frozen=True)
class Curve:
    """What is drawn beside the arms: a quantity along each run, mean and band over seeds."""

    title: str  # with its unit; intervals of shares are cut at 0 and 1
    of_run: Callable[[Path], Sequence[tuple[float, float]]]  # (x, y), the same x for all seeds of an arm
    x: str = "training step"
    ratio: bool = False  # as a measure's: a logarithmic axis and the geometric mean, of values above 0

    @property
    def bounds(self) -> tuple[float, float]:
        return _bounds(self.title)


def _bounds(unit: str) -> tuple[float, float]:
    """What is possible in a unit."""
    return (0.0, 1.0) if "share" in unit.split() else (-math.inf, math.inf)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """See the top of this file.

    Args:
        seeds: how many there are unless the command line says otherwise; 10 where a run takes under a minute.
        setting: on what all this happens, in a sentence: model, task, budget.
        x: the title of the horizontal axis of arms that have an `x`, with its unit.
        log_x: whether that axis is logarithmic.
        before: what is made before the arms, with each seed: runs, and files. Settings name it by `RunOf`.
        over_runs: from the directories of all runs of a seed, by arm and by the names of `before`, to their numbers.
        expected: what the sentence says of the arms; the verdict is theirs, and the index shows the first.
        beside: what else the same runs can show; it does not count for the verdict.
        text: for the page: what was tried, and what a reader should take from it.
    """

    sentence: str
    paper: Paper
    arms: Mapping[str, Arm]
    measures: Sequence[Measure]
    expected: Sequence[Expect]
    text: str
    setting: str
    beside: Sequence[Expect] = ()
    seeds: int = 5
    command: str = ""
    shared: Mapping[str, Any] = field(default_factory=dict)
    before: Mapping[str, Arm | File] = field(default_factory=dict)
    over_runs: Callable[[Mapping[str, Path]], Numbers] | None = None
    compute: Callable[[int], Numbers] | None = None
    curves: Sequence[Curve] = ()
    x: str = ""
    log_x: bool = False

    def __post_init__(self) -> None:
        """Raises: ValueError: the claim contradicts itself."""
        if bool(self.command) == bool(self.compute):
            raise ValueError("a claim has either a command or a computation")
        for one in (*self.expected, *self.beside):
            self.measure_of(one)
            for arm in (one.left, one.right):
                if isinstance(arm, str) and arm not in self.arms:
                    raise ValueError(f"there is no arm {arm!r}")

    def measure_of(self, expected: Expect) -> Measure:
        """The measure that an expectation is about."""
        for measure in self.measures:
            if measure.name == (expected.of or self.measures[0].name):
                return measure
        raise ValueError(f"there is no measure {expected.of!r}")
