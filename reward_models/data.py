"""Data of the three reward models: files of many shapes, or a policy's own completions, verified.

Everything becomes `Example`s: a question once, its answers as branches of a shared-prefix row. Three parts that share
no question: to train on, to stop by (validation), and to report (held-out).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

from reward_models.config import DataConfig, OutcomeConfig, PreferenceConfig, ProcessConfig, RewardModelConfig
from reward_models.questions import load_questions
from reward_models.steps import label_arithmetic
from rlhf.candidates import Candidates, sample_candidates
from rlhf.data.answers import Answer, encode_answer, from_columns
from rlhf.data.columns import cell_truth, is_missing, kind_of, refuse_unused, refuse_written_out, short
from rlhf.data.preferences import AS_SAMPLED, Ranking, parse_preference
from rlhf.data.ranking_groups import Fitted, describe_cuts, shared_prompt, to_group
from rlhf.data.rows import Row, Sifted, TooLong, load_rows, settle, sift, sift_rows, usable
from rlhf.data.splits import split_by_question
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.tasks.registry import open_task
from rlhf.text.chat import Conversation, encode_prompt, refuse_unknown
from rlhf.text.steps import CLASSES, JudgedAt, encode_steps, join_steps, separator_token, split_steps

type Say = Callable[[str], None]
TEXTS = ("completion", "solution", "response", "answer")
LABELS = ("label", "is_correct", "correct")


@dataclass(frozen=True)
class Example:
    """A question with answers, tokenized. `group.loss_mask` is True on the tokens whose scores are read."""

    question: str
    group: Group
    texts: list[str]
    right: list[bool | None] = field(default_factory=list)  # of each answer, where that is known
    labels: list[list[int]] = field(default_factory=list)  # of each answer's labelled steps: -1, 0 or 1
    steps: list[list[str]] = field(default_factory=list)
    margin: float = 0.0
    step_ends: list[list[int]] = field(default_factory=list)  # of each answer: the last token of every step
    whole: list[bool] = field(default_factory=list)  # of each answer: a solution, not another last step of one
    subset: str = ""  # of a benchmark, where the data name them

    @property
    def tokens(self) -> int:
        return len(self.group.prompt) + sum(map(len, self.group.completions))

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(better, worse), by number: each right answer against each wrong one; of a ranking, which has its best first,
        every answer against all behind it."""
        numbers = range(len(self.group.completions))
        if self.right:
            return [(i, j) for i in numbers for j in numbers if self.right[i] and not self.right[j]]
        return [(i, j) for i in numbers for j in numbers if i < j]

    def parts(self, token_budget: int) -> list["Example"]:
        """Itself, or, with more answers than a micro-batch holds, several with some of the answers each."""
        if self.tokens <= token_budget:
            return [self]
        parts: list[list[int]] = [[]]
        room = token_budget - len(self.group.prompt)
        for i, completion in enumerate(self.group.completions):
            if parts[-1] and sum(len(self.group.completions[j]) for j in parts[-1]) + len(completion) > room:
                parts.append([])
            parts[-1].append(i)
        return [self.take(part) for part in parts]

    def take(self, which: Sequence[int]) -> "Example":
        def pick[T](values: Sequence[T]) -> list[T]:
            return [values[i] for i in which] if values else []

        each = ("texts", "right", "labels", "steps", "step_ends", "whole")
        group = Group(self.group.prompt, pick(self.group.completions), pick(self.group.loss_mask))
        return replace(self, group=group, **{name: pick(getattr(self, name)) for name in each})


@dataclass(frozen=True)
class Split:
    """No question is in two of these."""

    name: str
    train: list[Example]
    validation: list[Example]
    held_out: list[Example]

    @property
    def fingerprint(self) -> str:
        """Of all three parts: what is measured on other held-out data is another run."""
        parts = (self.train, self.validation, self.held_out)
        told = [[[e.question, e.texts, e.right, e.labels, e.margin] for e in part] for part in parts]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------- preference


def preference_data(config: PreferenceConfig, tokenizer: PreTrainedTokenizerBase, say: Say) -> Split:
    data = config.data
    if data.path == "samples":
        split = outcome_data(config, tokenizer, say)
        return Split(split.name, *map(contrasting, (split.train, split.validation, split.held_out)))
    rows = load_rows(data.path, split=data.split)[: data.size or None]
    return _split_of(data, preference_examples(rows, tokenizer, config, say))


def preference_examples(
    rows: Iterable[tuple[str, Any]], tokenizer: PreTrainedTokenizerBase, config: PreferenceConfig, say: Say
) -> list[Example]:
    """Rankings of a file, tokenized in the same pass, so that whatever is wrong with a row counts as one."""

    def read(row: Row) -> tuple[Example, Fitted]:
        ranking = parse_preference(row)
        if config.margin_scale:
            _margin_can_be_used(ranking)
        fitted = to_group(tokenizer, ranking, max_length=config.max_length, truncation=config.truncation)
        texts = ["\n\n".join(message["content"] for message in answer) for answer in ranking.completions]
        subset = str(row.get("subset") or "")
        return Example(ranking.question, fitted.group, texts, margin=ranking.margin or 0.0, subset=subset), fitted

    found = usable(rows, read, say=say)
    describe_cuts((fitted for _, fitted in found), max_length=config.max_length, say=say)
    return [example for example, _ in found]


def _split_of(data: DataConfig, examples: list[Example]) -> Split:
    """Of the examples of a file: whole questions kept apart, for validation and to report."""
    train, held_out = split_by_question(examples, lambda e: e.question, held_out=data.held_out)
    train, validation = split_by_question(train, lambda e: e.question, held_out=data.validation, name="validation")
    return Split(data.path, train, validation, held_out)


def contrasting(examples: Iterable[Example]) -> list[Example]:
    """Those with a right and a wrong answer: each right one is preferred to each wrong one."""
    return [example for example in examples if len(set(example.right)) == 2]


def in_pairs(examples: Iterable[Example], data: DataConfig) -> list[Example]:
    """Up to `data.pairs` pairs of a right and a wrong answer to each question, each a row of its own.

    All answers to a question in one row cost fewer tokens, but teach a small model later: a batch has fewer questions,
    and how hard a question is tells most about its answers. Within a pair only the answers differ.
    """
    made = []
    for example in contrasting(examples):
        rng = Random(f"{data.seed} {example.question}")
        made += [example.take(pair) for pair in rng.sample(example.pairs, min(data.pairs, len(example.pairs)))]
    return made


def _margin_can_be_used(ranking: Ranking) -> None:
    if ranking.margin is None:
        raise UserError(
            "margin_scale: the data have no margins",
            hint="Give a column margin, or score_chosen and score_rejected.",
        )
    if len(ranking.completions) > 2:
        raise UserError("margin_scale: a margin belongs to a pair, and the data have longer rankings")


# ---------------------------------------------------------------------------------------------------------- outcome

type Solutions = tuple[str, list[tuple[Answer, bool]]]  # a question with solutions, each with whether it is right


def outcome_data(config: OutcomeConfig | PreferenceConfig, tokenizer: PreTrainedTokenizerBase, say: Say) -> Split:
    data = config.data
    if data.path != "samples":
        rows = load_rows(data.path, split=data.split)[: data.size or None]
        return _split_of(data, outcome_examples(rows, tokenizer, config, say))
    name, *sampled = sample_problems(data)
    train, held_out = (
        solutions_to_examples(_numbered(map(candidates_to_solutions, part)), tokenizer, config, say) for part in sampled
    )
    train, validation = split_by_question(train, lambda e: e.question, held_out=data.validation, name="validation")
    return Split(name, in_pairs(train, data) if data.pairs else train, validation, held_out)


def outcome_examples(
    rows: Iterable[tuple[str, Any]], tokenizer: PreTrainedTokenizerBase, config: RewardModelConfig, say: Say
) -> list[Example]:
    """Solutions of a file, one example a question."""
    parsed = sift_rows(rows, parse_solutions)
    return solutions_to_examples(parsed.kept, tokenizer, config, say, read=[parsed])


def candidates_to_solutions(candidates: Candidates) -> Solutions:
    labels = [verdict.exact == 1 for verdict in candidates.verdicts]
    return candidates.problem.question, list(zip(candidates.answers, labels, strict=True))


def _numbered[T](items: Iterable[T]) -> list[tuple[str, T]]:
    return [(f"problem {i}", item) for i, item in enumerate(items)]


def parse_solutions(row: Row) -> Solutions:
    """A question with one labelled solution or several:

    - `question` (or `prompt`), `completions` and `labels`, two lists of one length;
    - `question`, and `solution` (or `completion`, `response`, `answer`) with `label` (or `is_correct`, `correct`);
    - `question`, and columns that each hold {"solution": text, "is_correct": true or false}.

    Raises:
        ValueError: with the reason.
    """
    question = next((row[name] for name in ("question", "prompt") if not is_missing(row.get(name))), None)
    if not isinstance(question, str):
        raise ValueError(f"columns {sorted(row)}: there is no question as text{kind_of(row)}")
    refuse_written_out(question, "question")
    refuse_unused(row, used=(*LABELS, "labels", *AS_SAMPLED))
    text = next((row[name] for name in TEXTS if isinstance(row.get(name), str)), None)
    label = next((row[name] for name in LABELS if not is_missing(row.get(name))), None)
    inside = [v for v in row.values() if isinstance(v, dict) and "solution" in v and "is_correct" in v]
    if not is_missing(row.get("completions")):
        texts, labels = row["completions"], row.get("labels")
        if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels):
            raise ValueError("completions and labels: wanted two lists of one length")
        if any(label in (-1, None) for label in labels):
            raise ValueError(
                "labels of -1 or null are of the steps of one solution: reward_models.train_prm reads them"
            )
    elif inside:
        texts, labels = [item["solution"] for item in inside], [item["is_correct"] for item in inside]
    elif text is not None and label is not None:
        texts, labels = [text], [label]
    else:
        raise ValueError(
            f"columns {sorted(row)}: wanted a solution with a label, or completions with labels{kind_of(row)}"
        )
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError("a solution is empty or not text")
    right = [cell_truth(label, "label") for label in labels]
    return question, list(zip(from_columns(row, texts), right, strict=True))


def solutions_to_examples(
    solutions: Sequence[tuple[str, Solutions]],
    tokenizer: PreTrainedTokenizerBase,
    config: RewardModelConfig,
    say: Say,
    *,
    read: Sequence[Sifted[Any]] = (),
) -> list[Example]:
    """One example a question. An answer too long for `max_length` is left out whole, since the score is read at its
    end; so is one that is called right here and wrong there. They count as unusable, together with the rows that could
    not be `read`.

    Raises:
        UserError: more than 5 % are unusable.
    """
    labels: dict[tuple[str, str], set[bool]] = {}
    answers = []
    for where, (question, found) in solutions:
        for i, (answer, label) in enumerate(found):
            labels.setdefault((question, answer.text), set()).add(label)
            answers.append((f"{where}, answer {i}" if len(found) > 1 else where, (question, answer, label)))

    def encode(item: tuple[str, Answer, bool]) -> tuple[str, Answer, bool, Conversation]:
        question, answer, label = item
        if len(labels[question, answer.text]) > 1:
            raise ValueError("labelled right in one row and wrong in another")
        encoded = encode_answer(tokenizer, [*_system(config.data), {"role": "user", "content": question}], answer)
        refuse_unknown(tokenizer, encoded)
        if (needs := len(encoded.prompt) + len(encoded.completion)) > config.max_length:
            raise TooLong(needs, config.max_length)
        return question, answer, label, encoded

    sifted = sift(answers, encode, what="answers")
    settle([*read, sifted], say=say)
    by_question: dict[str, list[tuple[Answer, bool, Conversation]]] = {}
    for _, (question, answer, label, encoded) in sifted.kept:
        by_question.setdefault(question, []).append((answer, label, encoded))
    examples = []
    for question, found in by_question.items():
        group = Group(*shared_prompt([encoded for _, _, encoded in found]))
        examples.append(Example(question, group, [a.text for a, _, _ in found], [right for _, right, _ in found]))
    return examples


def _system(data: DataConfig) -> list[dict[str, str]]:
    return [{"role": "system", "content": data.system_prompt}] if data.system_prompt else []


# ---------------------------------------------------------------------------------------------------------- process


@dataclass(frozen=True)
class Trace:
    """Steps that follow each other. A label is None where nobody judged the step, or it is learned elsewhere."""

    steps: list[str]
    labels: list[int | None]
    right: bool | None = None  # the whole solution, where that is known
    alternative: bool = False  # not a solution of its own: another last step behind the history of one


type Traces = tuple[str, list[Trace]]  # a question with traces


def process_data(config: ProcessConfig, tokenizer: PreTrainedTokenizerBase, say: Say) -> Split:
    data = config.data
    if data.path == "samples":
        if data.task != "step_arithmetic" or data.questions:
            raise UserError(
                "data.task: the labels of steps are computed for step_arithmetic alone",
                hint="Give a file with labelled steps as data.path.",
            )
        name, *sampled = sample_problems(data)
        train, held_out = (
            traces_to_examples(_numbered(map(candidates_to_traces, part)), tokenizer, config, say) for part in sampled
        )
        train, validation = split_by_question(train, lambda e: e.question, held_out=data.validation, name="validation")
        return Split(name, train, validation, held_out)
    rows = load_rows(data.path, split=data.split)[: data.size or None]
    return _split_of(data, process_examples(rows, tokenizer, config, say))


def process_examples(
    rows: Iterable[tuple[str, Any]], tokenizer: PreTrainedTokenizerBase, config: ProcessConfig, say: Say
) -> list[Example]:
    """Labelled steps of a file, one example a question. A row without any rated step is said and left out: PRM800K has
    them by design, so they are not unusable."""
    parsed = sift_rows(rows, parse_traces)
    wanted = (
        (where, (q, [t for t in traces if config.alternatives or not t.alternative]))
        for where, (q, traces) in parsed.kept
    )
    labelled = [(where, (q, traces)) for where, (q, traces) in wanted if any(map(_is_rated, traces))]
    if len(labelled) < len(parsed.kept):
        say(f"data: {len(parsed.kept) - len(labelled)} of {len(parsed.kept)} rows have no rated step")
    return traces_to_examples(labelled, tokenizer, config, say, read=[parsed])


def _is_rated(trace: Trace) -> bool:
    return any(label is not None for label in trace.labels)


def candidates_to_traces(candidates: Candidates) -> Traces:
    """A policy's own arithmetic, each step labelled by calculating it."""
    expression = candidates.problem.entry["metadata"]["expression"]
    traces = []
    for text, verdict in zip(candidates.texts, candidates.verdicts, strict=True):
        steps = split_steps(text)
        if steps:
            traces.append(Trace(steps, list(label_arithmetic(expression, steps)), verdict.exact == 1))
    return candidates.problem.question, traces


def parse_traces(row: Row) -> Traces:
    """PRM800K's own rows (either phase), or `prompt` (or `question`) with `completions`, the steps, and `labels`.

    Raises:
        ValueError: with the reason.
    """
    if isinstance(row.get("question"), dict) and isinstance(row.get("label"), dict):
        return _parse_prm800k(row["question"], row["label"])
    question = next((row[name] for name in ("prompt", "question") if not is_missing(row.get(name))), None)
    if not isinstance(question, str):
        raise ValueError(f"columns {sorted(row)}: there is no question as text{kind_of(row)}")
    refuse_written_out(question, "question")
    refuse_unused(row, used=("labels",))
    steps, labels = row.get("completions"), row.get("labels")
    if not isinstance(steps, list) or not isinstance(labels, list) or len(steps) != len(labels) or not steps:
        raise ValueError(f"completions and labels: wanted two lists of one length{kind_of(row)}")
    if sum("</answer>" in str(step) for step in steps) > 1:
        raise ValueError("several of the completions have an answer: they are solutions, which train_orm reads")
    return question, [Trace([_step(step) for step in steps], [_rating(label) for label in labels])]


def _parse_prm800k(question: dict[str, Any], label: dict[str, Any]) -> Traces:
    """One row of PRM800K as traces: first the one the labeller followed, then each alternative behind its history.

    The completions of a step are alternatives. The one that was chosen (or, where none was good enough, the one that
    the labeller wrote) is what the next step follows; where the row ends without a choice, it is the first. An
    alternative is learned with the steps before it in sight, but these are labelled only once, in the first trace. A
    row without any rating, and one that the labeller called a bad problem, gives no traces.
    """
    problem, steps = question.get("problem"), label.get("steps")
    if not isinstance(problem, str) or not problem.strip():
        raise ValueError("question.problem: wanted text")
    if not isinstance(steps, list):
        raise ValueError("label.steps: wanted a list")
    if label.get("finish_reason") == "bad_problem":
        return problem, []
    history: list[str] = []
    ratings: list[int | None] = []
    others: list[Trace] = []
    for step in steps:
        if not isinstance(step, dict) or not isinstance(step.get("completions") or [], list):
            raise ValueError("label.steps: wanted steps with completions")
        alternatives = [(_step(c), _rating(c.get("rating"))) for c in _completions(step)]
        chosen, human = step.get("chosen_completion"), step.get("human_completion")
        if chosen is not None and not (isinstance(chosen, int) and 0 <= chosen < len(alternatives)):
            raise ValueError(f"chosen_completion {chosen!r} of {len(alternatives)} completions")
        if chosen is None and human is not None:
            text, rating = _step(human), _rating(human.get("rating") if isinstance(human, dict) else None)
        elif alternatives:
            text, rating = alternatives[chosen or 0]
        else:
            break
        for i, (other, its_rating) in enumerate(alternatives):
            followed = i == (chosen or 0) and not (chosen is None and human is not None)
            if its_rating is not None and not followed:
                others.append(Trace([*history, other], [*[None] * len(history), its_rating], alternative=True))
        history.append(text)
        ratings.append(rating)
        if chosen is None and human is None:
            break
    traces = [Trace(history, ratings), *others]
    return problem, [trace for trace in traces if any(r is not None for r in trace.labels)]


def _completions(step: dict[str, Any]) -> list[dict[str, Any]]:
    completions = step.get("completions") or []
    if not all(isinstance(completion, dict) for completion in completions):
        raise ValueError("label.steps.completions: wanted objects with text and rating")
    return completions


def _step(value: Any) -> str:
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text.strip():
        raise ValueError("a step is empty or not text")
    return text


def _rating(value: Any) -> int | None:
    """-1, 0, 1 or None; of two classes, true is right and false wrong."""
    if isinstance(value, bool):
        return 1 if value else -1
    if value is None:
        return None
    if value not in CLASSES:
        raise ValueError(f"label {short(value)}: wanted -1, 0 or 1")
    return int(value)


def traces_to_examples(
    questions: Sequence[tuple[str, Traces]],
    tokenizer: PreTrainedTokenizerBase,
    config: ProcessConfig,
    say: Say,
    *,
    read: Sequence[Sifted[Any]] = (),
) -> list[Example]:
    """One example a question. A trace too long for `max_length` loses its last steps, never its first: a step is judged
    by its history. Labelled steps that are lost count as unusable, together with rows that could not be `read` and
    traces that cannot be encoded.

    Raises:
        UserError: more than 5 % are unusable.
    """
    separator = separator_token(tokenizer, config.separator)

    def encode(item: tuple[str, Trace]) -> tuple[str, Trace, list[int], list[list[int]]]:
        question, trace = item
        prompt = encode_prompt(tokenizer, [*_system(config.data), {"role": "user", "content": question}])
        steps = encode_steps(tokenizer, trace.steps, separator)
        said = [token for own in steps for token in own[:-1]]
        refuse_unknown(tokenizer, Conversation(prompt, said, [True] * len(said)))
        return question, trace, prompt, steps

    traces = [
        (f"{where}, trace {i}" if len(found) > 1 else where, (question, trace))
        for where, (question, found) in questions
        for i, trace in enumerate(found)
    ]
    encoded, steps_seen = sift(traces, encode, what="traces"), Sifted[int]([], [], "labelled steps")
    by_question: dict[str, list[tuple[Trace, list[int], list[list[int]]]]] = {}
    for where, (question, trace, prompt, steps) in encoded.kept:
        ends = [len(prompt) + end for end in accumulate(map(len, steps))]
        fit = sum(end <= config.max_length for end in ends)
        for label, end in zip(trace.labels, ends, strict=True):
            if label is not None and end > config.max_length:
                steps_seen.refused.append((where, TooLong(end, config.max_length)))
            elif label is not None:
                steps_seen.kept.append((where, label))
        if _is_rated(replace(trace, labels=trace.labels[:fit])):
            by_question.setdefault(question, []).append((trace, prompt, steps[:fit]))
    settle([*read, encoded, steps_seen], say=say)
    return [_trace_example(question, found, config.judged_at) for question, found in by_question.items()]


def _trace_example(
    question: str, found: Sequence[tuple[Trace, list[int], list[list[int]]]], judged_at: JudgedAt
) -> Example:
    """Of the traces of a question, each with its prompt and the tokens of the steps that fit."""
    joined = [join_steps(steps, trace.labels, judged_at=judged_at) for trace, _, steps in found]
    tokens, loss_mask, labels = (list(column) for column in zip(*joined, strict=True))
    return Example(
        question,
        Group(found[0][1], tokens, loss_mask),
        ["\n".join(trace.steps) for trace, _, _ in found],
        [trace.right for trace, _, _ in found],
        labels,
        [trace.steps for trace, _, _ in found],
        step_ends=[[end - 1 for end in accumulate(map(len, steps))] for _, _, steps in found],
        whole=[not trace.alternative for trace, _, _ in found],
    )


# ---------------------------------------------------------------------------------------------------------- samples


def sample_problems(data: DataConfig) -> tuple[str, list[Candidates], list[Candidates]]:
    """(name, training candidates, held-out candidates), sampled from `data.policy` or taken from the cache."""
    if data.questions:
        problems, verifier = load_questions(data.questions, split=data.split, size=data.problems + data.held_out)
        train, held_out = split_by_question(problems, lambda p: p.question, held_out=data.held_out)
        name = data.questions
    else:
        verifier = open_task(data.task, data.task_config, answer_in=data.answer_in)
        drawn = verifier.train_problems(seed=data.seed, first=0, count=data.problems)
        train = list({problem.question: problem for problem in drawn}.values())
        held_out, name = verifier.held_out_problems(data.held_out), data.task
    candidates, held = (
        sample_candidates(
            data.policy,
            verifier,
            problems,
            count=data.candidates,
            max_new_tokens=data.max_new_tokens,
            seed=data.seed,
            system_prompt=data.system_prompt,
        )
        for problems in (train, held_out)
    )
    return name, candidates, held
