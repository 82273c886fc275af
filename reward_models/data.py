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
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from reward_models.config import DataConfig, OutcomeConfig, PreferenceConfig, ProcessConfig, RewardModelConfig
from reward_models.questions import load_questions
from reward_models.steps import CLASSES, label_arithmetic, split_steps
from rlhf.candidates import Candidates, sample_candidates
from rlhf.chat import encode_conversation, encode_prompt
from rlhf.data import Row, load_rows, usable
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.preferences import Ranking, load_preferences, split_by_question, to_groups
from rlhf.tasks import Task

type Say = Callable[[str], None]
type JudgedAt = Literal["separator", "step"]
TEXTS = ("completion", "solution", "response", "answer")
LABELS = ("label", "is_correct", "correct")


@dataclass(frozen=True)
class Example:
    """A question with answers, tokenized. `group.counts` is True on the tokens whose scores are read."""

    question: str
    group: Group
    texts: list[str]
    right: list[bool | None] = field(default_factory=list)  # of each answer, where that is known
    labels: list[list[int]] = field(default_factory=list)  # of each answer's labelled steps: -1, 0 or 1
    steps: list[list[str]] = field(default_factory=list)
    margin: float = 0.0
    step_ends: list[list[int]] = field(default_factory=list)  # of each answer: the last token of every step
    whole: list[bool] = field(default_factory=list)  # of each answer: a solution, not another last step of one

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
        group = Group(self.group.prompt, pick(self.group.completions), pick(self.group.counts))
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
        """Of what is trained on."""
        told = [[e.question, e.texts, e.right, e.labels, e.margin] for e in self.train]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------- preference


def preference_data(config: PreferenceConfig, tokenizer: PreTrainedTokenizerBase, say: Say) -> Split:
    data = config.data
    if data.path == "samples":
        split = outcome_data(config, tokenizer, say)
        return Split(split.name, *map(contrasting, (split.train, split.validation, split.held_out)))
    name = data.path
    rankings = load_preferences(data.path, split=data.split, say=say, size=data.size)
    rankings, held_out = split_by_question(rankings, lambda r: r.question, held_out=data.held_out)
    train, validation = split_by_question(rankings, lambda r: r.question, held_out=data.validation, name="validation")
    if config.margin_scale:
        _margins_can_be_used([*train, *validation, *held_out])

    def examples(rankings: list[Ranking]) -> list[Example]:
        return rankings_to_examples(
            rankings, tokenizer, max_length=config.max_length, truncation=config.truncation, say=say
        )

    return Split(name, examples(train), examples(validation), examples(held_out))


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


def rankings_to_examples(
    rankings: list[Ranking], tokenizer: PreTrainedTokenizerBase, *, max_length: int, truncation: Any, say: Say
) -> list[Example]:
    kept, groups = to_groups(tokenizer, rankings, max_length=max_length, truncation=truncation, say=say)
    return [
        Example(
            ranking.question,
            group,
            ["\n\n".join(message["content"] for message in answer) for answer in ranking.completions],
            margin=ranking.margin or 0.0,
        )
        for ranking, group in zip(kept, groups, strict=True)
    ]


def _margins_can_be_used(rankings: Iterable[Ranking]) -> None:
    for ranking in rankings:
        if ranking.margin is None:
            raise UserError(
                "margin_scale: the data have no margins",
                hint="Give a column margin, or score_chosen and score_rejected.",
            )
        if len(ranking.completions) > 2:
            raise UserError("margin_scale: a margin belongs to a pair, and the data have longer rankings")


# ---------------------------------------------------------------------------------------------------------- outcome


def outcome_data(config: OutcomeConfig | PreferenceConfig, tokenizer: PreTrainedTokenizerBase, say: Say) -> Split:
    data = config.data
    if data.path == "samples":
        name, candidates, held = sample_problems(data)
        train, held_out = (
            [(c.problem.question, [(t, v.exact == 1) for t, v in zip(c.texts, c.verdicts, strict=True)]) for c in part]
            for part in (candidates, held)
        )
    else:
        name = data.path
        rows = load_rows(data.path, split=data.split)
        train = merge(usable(rows[: data.size or None], parse_solutions, say=say), say)
        train, held_out = split_by_question(train, lambda item: item[0], held_out=data.held_out)
    train, validation = split_by_question(train, lambda item: item[0], held_out=data.validation, name="validation")
    parts = [solutions_to_examples(part, tokenizer, config, say) for part in (train, validation, held_out)]
    if data.path == "samples" and data.pairs:
        parts[0] = in_pairs(parts[0], data)
    return Split(name, *parts)


type Solutions = tuple[str, list[tuple[str, bool]]]  # a question with solutions, each with whether it is right


def parse_solutions(row: Row) -> Solutions:
    """A question with one labelled solution or several:

    - `question` (or `prompt`), `completions` and `labels`, two lists of one length;
    - `question`, and `solution` (or `completion`, `response`, `answer`) with `label` (or `is_correct`, `correct`);
    - `question`, and columns that each hold {"solution": text, "is_correct": true or false}.

    Raises:
        ValueError: with the reason.
    """
    question = next((row[name] for name in ("question", "prompt") if row.get(name) is not None), None)
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"columns {sorted(row)}: there is no question")
    text = next((row[name] for name in TEXTS if isinstance(row.get(name), str)), None)
    label = next((row[name] for name in LABELS if row.get(name) is not None), None)
    inside = [v for v in row.values() if isinstance(v, dict) and "solution" in v and "is_correct" in v]
    if row.get("completions") is not None:
        texts, labels = row["completions"], row.get("labels")
        if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels) or not texts:
            raise ValueError("completions and labels: wanted two lists of one length")
        found = list(zip(texts, labels, strict=True))
    elif inside:
        found = [(item["solution"], item["is_correct"]) for item in inside]
    elif text is not None and label is not None:
        found = [(text, label)]
    else:
        raise ValueError(f"columns {sorted(row)}: wanted a solution with a label, or completions with labels")
    for text, label in found:
        if not isinstance(text, str) or not text.strip():
            raise ValueError("a solution is empty or not text")
        if label not in (0, 1):
            raise ValueError(f"label {label!r}: wanted true or false")
    return question, [(text, bool(label)) for text, label in found]


def merge(solutions: Iterable[Solutions], say: Say) -> list[Solutions]:
    """One entry a question; a text that is called right here and wrong there is left out."""
    by_question: dict[str, list[tuple[str, bool]]] = {}
    for question, found in solutions:
        by_question.setdefault(question, []).extend(found)
    contradicted, merged = 0, []
    for question, found in by_question.items():
        right, wrong = ({text for text, label in found if label == way} for way in (True, False))
        contradicted += len(right & wrong)
        if kept := [(text, label) for text, label in found if text not in right & wrong]:
            merged.append((question, kept))
    if contradicted:
        say(f"data: {contradicted} solutions are left out: labelled right in one row and wrong in another")
    return merged


def solutions_to_examples(
    solutions: Iterable[Solutions], tokenizer: PreTrainedTokenizerBase, config: RewardModelConfig, say: Say
) -> list[Example]:
    """Solutions too long for `max_length` are left out whole, since the score is read at their end."""
    examples, left = [], 0
    for question, found in solutions:
        encoded = [
            encode_conversation(
                tokenizer,
                [*_system(config.data), {"role": "user", "content": question}, {"role": "assistant", "content": text}],
                last_turn_only=True,
            )
            for text, _ in found
        ]
        fits = [i for i, e in enumerate(encoded) if len(e.prompt) + len(e.completion) <= config.max_length]
        left += len(found) - len(fits)
        if fits:
            group = Group(encoded[0].prompt, [encoded[i].completion for i in fits], [encoded[i].counts for i in fits])
            examples.append(Example(question, group, [found[i][0] for i in fits], [found[i][1] for i in fits]))
    return _not_empty(examples, left, config, say)


def _system(data: DataConfig) -> list[dict[str, str]]:
    return [{"role": "system", "content": data.system_prompt}] if data.system_prompt else []


def _not_empty(examples: list[Example], left: int, config: RewardModelConfig, say: Say) -> list[Example]:
    if not examples:
        raise UserError(f"data: nothing fits into max_length {config.max_length}")
    if left:
        say(f"data: {left} answers are left out: longer than max_length {config.max_length}")
    return examples


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
        name, candidates, held = sample_problems(data)
        train, held_out = ([candidates_to_traces(c) for c in part] for part in (candidates, held))
    else:
        name = data.path
        rows = usable(load_rows(data.path, split=data.split)[: data.size or None], parse_traces, say=say)
        wanted = ((q, [t for t in traces if config.alternatives or not t.alternative]) for q, traces in rows)
        labelled = [(q, traces) for q, traces in wanted if traces]
        if len(labelled) < len(rows):
            say(f"data: {len(rows) - len(labelled)} of {len(rows)} rows have no rated step")
        by_question: dict[str, list[Trace]] = {}
        for question, traces in labelled:
            by_question.setdefault(question, []).extend(traces)
        train, held_out = split_by_question(by_question.items(), lambda item: item[0], held_out=data.held_out)
    train, validation = split_by_question(train, lambda item: item[0], held_out=data.validation, name="validation")
    return Split(name, *(traces_to_examples(part, tokenizer, config, say) for part in (train, validation, held_out)))


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
    question = next((row[name] for name in ("prompt", "question") if row.get(name) is not None), None)
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"columns {sorted(row)}: there is no question")
    steps, labels = row.get("completions"), row.get("labels")
    if not isinstance(steps, list) or not isinstance(labels, list) or len(steps) != len(labels) or not steps:
        raise ValueError("completions and labels: wanted two lists of one length")
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
        raise ValueError(f"label {value!r}: wanted -1, 0 or 1")
    return int(value)


def traces_to_examples(
    questions: Iterable[Traces], tokenizer: PreTrainedTokenizerBase, config: ProcessConfig, say: Say
) -> list[Example]:
    """A trace too long for `max_length` loses its last steps, never its first: a step is judged by its history."""
    separator = separator_token(tokenizer, config.separator)
    examples, left = [], 0
    for question, traces in questions:
        prompt = encode_prompt(tokenizer, [*_system(config.data), {"role": "user", "content": question}])
        room, encoded = config.max_length - len(prompt), []
        for trace in traces:
            steps = encode_steps(tokenizer, trace.steps, separator, room=room)
            tokens, counts, labels = join_steps(steps, trace.labels, judged_at=config.judged_at)
            left += sum(label is not None for label in trace.labels) - len(labels)
            if labels:
                ends = [end - 1 for end in accumulate(map(len, steps))]
                encoded.append((tokens, counts, labels, ends, trace))
        if encoded:
            tokens, counts, labels, ends, kept = (list(column) for column in zip(*encoded, strict=True))
            examples.append(
                Example(
                    question,
                    Group(prompt, tokens, counts),
                    ["\n".join(trace.steps) for trace in kept],
                    [trace.right for trace in kept],
                    labels,
                    [trace.steps for trace in kept],
                    step_ends=ends,
                    whole=[not trace.alternative for trace in kept],
                )
            )
    if left:
        say(f"data: {left} labelled steps are left out: they lie behind max_length {config.max_length}")
    return _not_empty(examples, 0, config, say)


def separator_token(tokenizer: PreTrainedTokenizerBase, separator: str) -> int:
    """The one token that ends a step. Steps are tokenized apart and it is put between, so nothing melts into it.

    Raises:
        UserError: if the tokenizer cuts the separator.
    """
    tokens = tokenizer(separator, add_special_tokens=False)["input_ids"]
    if len(tokens) != 1:
        raise UserError(
            f"separator: the model's tokenizer makes {len(tokens)} tokens of {separator!r}, wanted one",
            hint="Take a special token of the tokenizer, or a line break.",
        )
    return tokens[0]


def encode_trace(
    tokenizer: PreTrainedTokenizerBase, trace: Trace, separator: int, *, judged_at: JudgedAt, room: int
) -> tuple[list[int], list[bool], list[int]]:
    """Tokens, at which of them a labelled step is judged, and these steps' labels; the whole steps that fit."""
    return join_steps(encode_steps(tokenizer, trace.steps, separator, room=room), trace.labels, judged_at=judged_at)


def encode_steps(
    tokenizer: PreTrainedTokenizerBase, steps: Sequence[str], separator: int, *, room: int
) -> list[list[int]]:
    """The tokens of each step with its separator, as long as whole steps fit."""
    encoded: list[list[int]] = []
    for step in steps:
        own = [*tokenizer(step, add_special_tokens=False)["input_ids"], separator]
        room -= len(own)
        if room < 0:
            break
        encoded.append(own)
    return encoded


def join_steps(
    steps: Sequence[list[int]], labels: Sequence[int | None], *, judged_at: JudgedAt
) -> tuple[list[int], list[bool], list[int]]:
    """The tokens of all steps, at which of them a labelled step is judged, and these steps' labels."""
    tokens: list[int] = []
    counts: list[bool] = []
    known: list[int] = []
    for own, label in zip(steps, labels, strict=False):
        tokens += own
        at = len(own) - (1 if judged_at == "separator" else 2)
        counts += [label is not None and i == at for i in range(len(own))]
        known += [] if label is None else [label]
    return tokens, counts, known


# ---------------------------------------------------------------------------------------------------------- samples


def sample_problems(data: DataConfig) -> tuple[str, list[Candidates], list[Candidates]]:
    """(name, training candidates, held-out candidates), sampled from `data.policy` or taken from the cache."""
    if data.questions:
        problems, verifier = load_questions(data.questions, split=data.split, size=data.problems + data.held_out)
        train, held_out = split_by_question(problems, lambda p: p.question, held_out=data.held_out)
        name = data.questions
    else:
        verifier = Task(data.task, data.task_config)
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
