"""The work of an epoch of DPO, the same for both sides: pairs of conversations as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.race import Cost

LR = 1e-6
BETA = 0.1
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class Options:
    model: str
    precision: str
    data: str
    pairs: int
    batch: int
    steps: int  # timed; 0 is a whole epoch
    max_length: int
    token_budget: int
    trl_micro_batch: int
    trl_cpu: str
    trl_checkpointing: str
    trl_reference: str
    seed: int
    patience: float

    @property
    def timed(self) -> int:
        return self.steps or self.pairs // self.batch


@dataclass(frozen=True)
class Step:
    """What one step, or the reference's pass over all pairs, took."""

    cost: Cost
    loss: float = 0.0
    tokens: int = 0  # read by the model, padding included


def make_groups(tokenizer, options: Options) -> list:
    """A batch to warm up with, then `pairs` pairs."""
    from rlhf.data.preferences import parse_preference
    from rlhf.data.ranking_groups import to_group
    from rlhf.data.rows import load_rows, sift, usable

    wanted = options.batch + options.pairs
    if options.data:
        rankings = usable(load_rows(options.data)[: 2 * wanted], parse_preference, say=print)
    else:
        rankings = [generated(i) for i in range(2 * wanted)]
    limits: Any = {"max_length": options.max_length, "truncation": "keep_end"}
    sifted = sift([("", ranking) for ranking in rankings], lambda it: to_group(tokenizer, it, **limits).group)
    groups = [group for _, group in sifted.kept]
    # The last pairs warm up, so that the first ones are those of the file.
    return [*groups[-options.batch :], *groups[: options.pairs]]


def generated(number: int):
    """A dialogue of about hh-rlhf's lengths: 110 tokens of prompt, answers of 10 to 120."""
    from random import Random

    from rlhf.data.preferences import Ranking
    from rlhf.text.chat import Message

    rng = Random(number)
    words = ["what", "do", "you", "think", "about", "the", "old", "house", "by", "river", "seven", "quickly", "blue"]

    def say(low: int, high: int) -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(low, high)))

    prompt: list[Message] = [{"role": role, "content": say(5, 45)} for role in ("user", "assistant", "user")]
    answers: list[list[Message]] = [
        [{"role": "assistant", "content": f"{say(8, 80)} {mark}"}] for mark in ("yes", "no")
    ]
    return Ranking(prompt, answers, None)


def tokens_of(groups: Sequence) -> tuple[int, int]:
    return sum(len(g.prompt) for g in groups), sum(len(c) for g in groups for c in g.completions)
