"""Data of process models: steps with labels, of a file or of a policy's own arithmetic, labelled by calculating."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from transformers import PreTrainedTokenizerBase

from reward_models.config import ProcessConfig
from reward_models.examples import Example, Say, Split, numbered, sample_problems, split_file
from reward_models.steps import label_arithmetic
from reward_models.traces import Trace, Traces, parse_traces, refuse_unclear_labels
from rlhf.candidates import Candidates
from rlhf.data.rows import Sifted, TooLong, load_rows, refuse_many_unusable, sift, sift_rows
from rlhf.data.splits import split_by_question
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.tasks.problem import system_message
from rlhf.text.chat import Conversation, encode_prompt, refuse_unknown
from rlhf.text.steps import JudgedAt, encode_steps, join_steps, separator_token, split_steps


def process_data(config: ProcessConfig, tokenizer: PreTrainedTokenizerBase, say: Say) -> Split:
    data = config.data
    if data.path == "samples":
        if data.task != "step_arithmetic":
            raise UserError(
                "data.task: the labels of steps are computed for step_arithmetic alone",
                hint="Give a file with labelled steps as data.path.",
            )
        name, *sampled = sample_problems(config, tokenizer)
        train, held_out = (
            traces_to_examples(numbered(map(candidates_to_traces, part)), tokenizer, config, say) for part in sampled
        )
        train, validation = split_by_question(train, lambda e: e.question, held_out=data.validation, name="validation")
        return Split(name, train, validation, held_out)
    rows = load_rows(data.path, split=data.split)[: data.size or None]
    return split_file(data, process_examples(rows, tokenizer, config, say))


def process_examples(
    rows: Iterable[tuple[str, Any]], tokenizer: PreTrainedTokenizerBase, config: ProcessConfig, say: Say
) -> list[Example]:
    """Labelled steps of a file, one example a question. A row without any rated step is said and left out: PRM800K has
    them by design, so they are not unusable."""
    rows = list(rows)
    refuse_unclear_labels(rows)
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
    for answer, verdict in candidates.judged:
        steps = split_steps(answer.text)
        if steps:
            traces.append(Trace(steps, list(label_arithmetic(expression, steps)), verdict.exact == 1))
    return candidates.problem.question, traces


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
        asked = [*system_message(config.data.system_prompt), {"role": "user", "content": question}]
        prompt = encode_prompt(tokenizer, asked)
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
    refuse_many_unusable([*read, encoded, steps_seen], say=say)
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
