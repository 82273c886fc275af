"""The work of a GRPO step, the same for both sides: problems, lengths of completions, rewards; and a meter of it."""

import time
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import cycle

from benchmarks.race import Clock, Cost

TASK = "spell_backward"
LR = 1e-6
MAX_GRAD_NORM = 1.0
CLIP = 0.2
INSTRUCTIONS = (
    "Read the question with care before you answer. Work through it one letter at a time, check the result against the "
    "question, and do not add remarks that nobody asked for. Give the answer at the end."
)


@dataclass(frozen=True)
class Options:
    model: str
    precision: str
    prompts: int
    rollouts: int
    max_new_tokens: int
    prompt_tokens: int
    lengths: str
    steps: int
    token_budget: int
    trl_micro_batch: int
    trl_cpu: str
    seed: int
    patience: float

    @property
    def rounds(self) -> int:
        """The most rounds: one that warms up and, with patience, three for each that counts."""
        return 1 + self.steps * (3 if self.patience else 1)


@dataclass(frozen=True)
class Step:
    """What one step took and did."""

    cost: Cost
    generation: float  # seconds
    train: float
    prompt_tokens: int  # each prompt once
    completion_tokens: int
    longest: int  # token steps of decoding

    @property
    def rest(self) -> float:
        return self.cost.seconds - self.generation - self.train


def make_problems(tokenizer, options: Options) -> list:
    """B problems for each step, the question followed by instructions until the prompt has the length asked for."""
    from dataclasses import replace

    from rlhf.tasks.encoding import encode_problem
    from rlhf.tasks.procedural import ProceduralTask

    def lengthened(problem):
        words = cycle(INSTRUCTIONS.split())
        while len(encode_problem(tokenizer, problem, None)) < options.prompt_tokens:
            problem = replace(problem, question=f"{problem.question} {next(words)}")
        return problem

    count = options.prompts * options.rounds
    return [
        lengthened(problem) for problem in ProceduralTask(TASK).train_problems(seed=options.seed, first=0, count=count)
    ]


def jitter(text: str) -> float:
    """A number in [0, 1) from a hash of the text."""
    return zlib.crc32(text.encode()) / 2**32


def wanted_lengths(options: Options) -> Iterator:
    """For each step, how long each completion is to be; longer than max_new_tokens means no end token."""
    import torch

    generator = torch.Generator().manual_seed(options.seed)
    n = options.prompts * options.rollouts
    most = options.max_new_tokens
    while True:
        if options.lengths == "fixed":
            yield torch.full((n,), most + 1)
        else:
            # The mean of two uniform numbers: 32.5 of 64 on average, seldom very short or very long.
            yield (torch.rand(2, n, generator=generator).mean(0) * most).ceil().clamp(1, most).long()


class Meter:
    """Times the parts of a step and counts its tokens."""

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        self.clock = Clock()
        self.seconds: dict[str, float] = {}
        self.prompts: Sequence[Sequence[int]] = []
        self.completions: Sequence[Sequence[int]] = []

    @contextmanager
    def __call__(self, part: str) -> Generator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def around(self, part: str, function: Callable) -> Callable:
        @wraps(function)
        def timed(*args, **kwargs):
            with self(part):
                return function(*args, **kwargs)

        return timed

    def step(self, *, generation: float, train: float) -> Step:
        lengths = [len(tokens) for tokens in self.completions]
        return Step(
            cost=self.clock.cost(),
            generation=generation,
            train=train,
            prompt_tokens=sum(map(len, self.prompts)),
            completion_tokens=sum(lengths),
            longest=max(lengths),
        )


def describe(model) -> dict[str, int]:
    """Numbers of parameters: of the layers with the embeddings they need, and of the vocabulary projection."""
    head = model.get_output_embeddings().weight
    backbone = sum(p.numel() for p in model.base_model.parameters())
    return {"backbone": backbone - head.numel() * int(model.config.tie_word_embeddings), "head": head.numel()}
