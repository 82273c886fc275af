"""The texts of a step: prompts with completions of the student, of the teacher or of a file.

What a step takes depends on the seed and the number of the step alone, so a resumed run meets the same prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distillation.config import DistillationConfig
from distillation.teacher_prompts import teacher_messages
from rlhf.candidates import Candidates, distinct_problems, sample_candidates
from rlhf.data.answers import sampled_answer
from rlhf.data.conversations import dialogue_groups, parse_row
from rlhf.data.rows import in_epochs, load_rows, refuse_many_unusable, sift, sift_rows
from rlhf.distributed import local_shard
from rlhf.groups import Group
from rlhf.models.architecture import refuse_long
from rlhf.random_keys import of_training
from rlhf.run.session import Session
from rlhf.sampling import SampledCompletions, sample
from rlhf.tasks.encoding import encode_problem
from rlhf.tasks.mixture import OF_TASK
from rlhf.tasks.problem import Problem, Task
from rlhf.text.chat import encode_prompt, end_tokens


@dataclass(frozen=True)
class Answers:
    """One prompt with its completions, who is to score them, and behind which prompts."""

    group: Group  # a completion that the teacher has nothing to say about is in it, and is not in the loss
    teacher: str
    teacher_prompts: list[list[int]]  # of each completion; where the teacher sees no more, the student's
    sampled: SampledCompletions | None = None  # by the student; None: off-policy
    candidates: Candidates | None = None  # with texts and verdicts; None: of a file

    @property
    def logp_sampler(self) -> list[Tensor]:
        """The log-probabilities that the student sampled each completion at, nats; zeros where it did not."""
        if self.sampled is None:
            return [torch.zeros(len(completion)) for completion in self.group.completions]
        return [torch.tensor(logp) for logp in self.sampled.logp]


class Sampler:
    """Batches of prompts with completions: the student's own, and in their place those of `texts` for a share of them.

    Args:
        texts: off-policy prompts with completions, at least one; () where every completion is the student's.
    """

    def __init__(
        self,
        session: Session,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        texts: Sequence[Answers],
    ):
        self.accelerator = session.accelerator
        self.config: DistillationConfig = session.command.config
        self.model, self.tokenizer, self.task, self.texts = model, tokenizer, task, texts

    def batch(self, step: int) -> list[Answers]:
        """This process's share of a step."""
        config = self.config
        count = config.prompts_per_step
        numbers = local_shard(list(range(step * count, (step + 1) * count)), self.accelerator)
        own = [number for number in numbers if is_on_policy(number, config)]
        answered = dict(zip(own, self._answer(own), strict=True))
        return [answered[number] if number in answered else self._text(number) for number in numbers]

    def first_problems(self) -> list[Problem]:
        """Those of the first step, to see whether the student can read them."""
        return self.task.train_problems(seed=self.config.seed, first=0, count=self.config.prompts_per_step)

    def _text(self, number: int) -> Answers:
        (text,) = in_epochs(self.texts, seed=self.config.seed, first=number, count=1)
        return text

    def _answer(self, numbers: Sequence[int]) -> list[Answers]:
        """Completions of the student, sampled at the temperature that they are scored at."""
        config = self.config
        problems = [self.task.train_problems(seed=config.seed, first=number, count=1)[0] for number in numbers]
        with self.accelerator.autocast():
            sampled = sample(
                self.model,
                [self._prompt(problem) for problem in problems],
                completions=config.group_size,
                max_new_tokens=config.max_new_tokens,
                end_tokens=end_tokens(self.tokenizer),
                keys=[of_training(config.seed, number) for number in numbers],
                temperature=config.temperature,
                batch=config.sampling_batch,
            )
        return [self._judged(problem, own) for problem, own in zip(problems, sampled, strict=True)]

    def _judged(self, problem: Problem, sampled: SampledCompletions) -> Answers:
        """A problem's completions with their verdicts, and what the teacher reads before each."""
        answers = [sampled_answer(self.tokenizer, tokens) for tokens in sampled.tokens]
        verdicts = [self.task.verify(problem, answer.text) for answer in answers]
        candidates = Candidates(problem, answers, verdicts)
        prompt = self._prompt(problem)
        group = Group(prompt, sampled.tokens)
        prompts = [prompt] * len(answers)
        if self.config.teacher_sees != "question":
            shown = teacher_messages(problem, candidates.texts, verdicts, self.config)
            prompts = [prompt if it is None else encode_prompt(self.tokenizer, it) for it in shown]
            mask = [[it is not None] * len(tokens) for it, tokens in zip(shown, sampled.tokens, strict=True)]
            group = replace(group, loss_mask=mask)
        return Answers(group, teacher_of(problem, self.config), prompts, sampled, candidates)

    def _prompt(self, problem: Problem) -> list[int]:
        return encode_problem(self.tokenizer, problem, self.config.system_prompt)


def is_on_policy(number: int, config: DistillationConfig) -> bool:
    """Whether the student answers prompt `number` of the run: a share `on_policy_share` of them, drawn by seed."""
    return Random(f"{config.seed} on-policy {number}").random() < config.on_policy_share


def teacher_of(problem: Problem, config: DistillationConfig) -> str:
    """The name of the model that teaches this problem's task."""
    return config.teachers[problem.entry[OF_TASK]] if config.teachers else config.teacher_names[0]


# ----------------------------------------------------------------------------------------------------- off-policy texts


def open_texts(
    session: Session, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task
) -> list[Answers]:
    """The off-policy texts of a run: sampled from the teacher once, and cached by content, or those of a file; none
    where every completion is the student's.

    Raises:
        UserError: the student cannot read them.
    """
    config: DistillationConfig = session.command.config
    if config.on_policy_share == 1:
        return []
    if config.texts.path == "teacher":
        with session.watch("sampling"):
            texts = _texts_of_teachers(config, tokenizer, task)
    else:
        texts = _texts_of_file(config, tokenizer, say=session.console.say)
    refuse_long_texts(model, texts, "the student")
    return texts


def _texts_of_teachers(config: DistillationConfig, tokenizer: PreTrainedTokenizerBase, task: Task) -> list[Answers]:
    problems = distinct_problems(task, seed=config.seed, count=config.texts.problems)
    by_teacher: dict[str, list[Problem]] = {}
    for problem in problems:
        by_teacher.setdefault(teacher_of(problem, config), []).append(problem)
    return [text for name, own in by_teacher.items() for text in _texts_of_teacher(name, own, config, tokenizer, task)]


def _texts_of_teacher(
    name: str, problems: Sequence[Problem], config: DistillationConfig, tokenizer: PreTrainedTokenizerBase, task: Task
) -> list[Answers]:
    candidates = sample_candidates(
        name,
        task,
        problems,
        count=config.group_size,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
        temperature=config.teacher_temperature,
        system_prompt=config.system_prompt,
        tokenizer=tokenizer,
    )
    texts = []
    for one in candidates:
        prompt = encode_problem(tokenizer, one.problem, config.system_prompt)
        group = Group(prompt, [list(answer.tokens) for answer in one.answers])
        texts.append(Answers(group, name, [prompt] * len(one.answers), None, one))
    return texts


def _texts_of_file(
    config: DistillationConfig, tokenizer: PreTrainedTokenizerBase, *, say: Callable[[str], None]
) -> list[Answers]:
    """Conversations, each with its answers.

    Raises:
        UserError: more than 5 % of the rows cannot be used.
    """
    parsed = sift_rows(load_rows(config.texts.path, split=config.texts.split), parse_row)
    encoded = sift(parsed.kept, partial(dialogue_groups, tokenizer, max_length=config.texts.max_length), what="texts")
    refuse_many_unusable([parsed, encoded], say=say)
    (name,) = config.teacher_names
    return [
        Answers(group, name, [list(group.prompt)] * len(group.completions))
        for _, groups in encoded.kept
        for group in groups
    ]


def refuse_long_texts(network: PreTrainedModel, answers: Sequence[Answers], who: str) -> None:
    """See that a model can read completions behind the prompts that the teacher sees; of texts, these are the
    student's too.

    Raises:
        UserError: it cannot.
    """
    longest = max(
        len(prompt) + len(completion)
        for one in answers
        for prompt, completion in zip(one.teacher_prompts, one.group.completions, strict=True)
    )
    lower = "max_new_tokens, texts.max_length, or what teacher_prompt adds"
    refuse_long(network.config, longest, f"{who} is to read {longest} tokens", lower)


# ---------------------------------------------------------------------------------------------------------- for a step


def mini_batches(batch: Sequence[Answers], count: int) -> list[list[Answers]]:
    """The batch in `count` parts of equally many prompts: one optimizer step each."""
    size = len(batch) // count
    return [list(batch[first : first + size]) for first in range(0, size * count, size)]


def by_teacher(answers: Sequence[Answers]) -> dict[str, list[Answers]]:
    """The answers that each teacher scores."""
    found: dict[str, list[Answers]] = {}
    for one in answers:
        found.setdefault(one.teacher, []).append(one)
    return found


def padded(rows: Sequence[Tensor], device: torch.device) -> Float[Tensor, "n t"]:
    """Numbers of tokens, right-padded with zeros."""
    return pad_sequence(list(rows), batch_first=True).to(device)


def samples(batch: Sequence[Answers], count: int = 4) -> list[dict[str, Any]]:
    """The first completion of each of the first `count` prompts that have a verdict, as records of samples.jsonl."""
    records = []
    for one in batch:
        if one.candidates is not None:
            verdict = one.candidates.verdicts[0]
            exact = None if verdict is None else verdict.exact
            records.append(
                {
                    "prompt": one.candidates.problem.question,
                    "completion": one.candidates.texts[0],
                    "written_by": "teacher" if one.sampled is None else "student",
                    **({} if exact is None else {"answer": one.candidates.problem.answer, "total": exact}),
                }
            )
    return records[:count]
