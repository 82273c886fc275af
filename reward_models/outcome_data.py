"""Data of outcome models: solutions, each with whether it is right, of a file or sampled and verified."""

import json
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

from reward_models.config import DataConfig, OutcomeConfig, PreferenceConfig, RewardModelConfig
from reward_models.examples import Example, Say, Split, numbered, sample_problems, split_file
from rlhf.candidates import Candidates
from rlhf.data.answers import Answer, encode_answer, from_columns
from rlhf.data.columns import LABELS, cell_truth, is_missing, kind_of, refuse_ambiguous, refuse_unused
from rlhf.data.messages import CONTEXT, first_question, parse_messages
from rlhf.data.preferences import AS_SAMPLED
from rlhf.data.prompts import conversation_cell, prompt_cell, read_conversation, read_prompt
from rlhf.data.ranking_groups import shared_prompt
from rlhf.data.rows import Row, Sifted, TooLong, load_rows, refuse_many_unusable, sift, sift_rows
from rlhf.data.splits import split_by_question
from rlhf.groups import Group
from rlhf.tasks.problem import messages_for, with_system
from rlhf.text.chat import Conversation, Message, refuse_unknown

TEXTS = ("completion", "solution", "response", "answer")
type Solutions = tuple[list[Message], list[tuple[Answer, bool]]]  # what asks, and solutions, each with its label


def outcome_data(config: OutcomeConfig | PreferenceConfig, tokenizer: PreTrainedTokenizerBase, say: Say) -> Split:
    data = config.data
    if data.path != "samples":
        rows = load_rows(data.path, split=data.split)[: data.size or None]
        return split_file(data, outcome_examples(rows, tokenizer, config, say))
    name, *sampled = sample_problems(config, tokenizer)
    train, held_out = (
        solutions_to_examples(numbered(map(candidates_to_solutions, part)), tokenizer, config, say) for part in sampled
    )
    train, validation = split_by_question(train, lambda e: e.question, held_out=data.validation, name="validation")
    return Split(name, in_pairs(train, data) if data.pairs else train, validation, held_out)


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


def outcome_examples(
    rows: Iterable[tuple[str, Any]], tokenizer: PreTrainedTokenizerBase, config: RewardModelConfig, say: Say
) -> list[Example]:
    """Solutions of a file, one example a question."""
    rows = list(rows)
    refuse_ambiguous(rows)
    parsed = sift_rows(rows, parse_solutions)
    return solutions_to_examples(parsed.kept, tokenizer, config, say, read=[parsed])


def candidates_to_solutions(candidates: Candidates) -> Solutions:
    labelled = [(answer, verdict.exact == 1) for answer, verdict in candidates.judged]
    return messages_for(candidates.problem, None), labelled


def parse_solutions(row: Row) -> Solutions:
    """A question with one labelled solution or several:

    - `question` (or `prompt`, as text or messages), `completions` and `labels`, two lists of one length;
    - `question`, and `solution` (or `completion`, `response`, `answer`) with `label` (or `is_correct`, `correct`);
    - `messages` (or ShareGPT's `conversations`) that end with a solution, with `label`;
    - `question`, and columns that each hold {"solution": text, "is_correct": true or false}.

    Raises:
        ValueError: with the reason.
    """
    asks = prompt_cell(row)
    if not isinstance(asks, str | list | None) or (asks is None and conversation_cell(row) is None):
        raise ValueError(f"columns {sorted(row)}: there is no question as text or messages{kind_of(row)}")
    prompt = read_prompt(row)
    refuse_unused(row, used=(*CONTEXT, "input", *LABELS, "labels", *AS_SAMPLED))
    text = next((row[name] for name in TEXTS if not is_missing(row.get(name))), None)
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
    elif not prompt and label is not None:
        prompt, last = read_conversation(row)
        texts, labels = [last["content"]], [label]
    elif inside:
        texts, labels = [item["solution"] for item in inside], [item["is_correct"] for item in inside]
    elif text is not None and label is not None:
        texts, labels = [_said(text)], [label]
    else:
        raise ValueError(
            f"columns {sorted(row)}: wanted a solution with a label, or completions with labels{kind_of(row)}"
        )
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError("a solution is empty or not text")
    right = [cell_truth(label, "label") for label in labels]
    return prompt, list(zip(from_columns(row, texts), right, strict=True))


def _said(solution: Any) -> str:
    """Text, or one message of the assistant."""
    messages = parse_messages(solution, "assistant", "solution")
    if len(messages) > 1 or messages[0]["role"] != "assistant":
        raise ValueError("a solution of several messages; wanted text, or one message of the assistant")
    return messages[0]["content"]


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
    for where, (prompt, found) in solutions:
        for i, (answer, label) in enumerate(found):
            labels.setdefault((_key(prompt), answer.text), set()).add(label)
            answers.append((f"{where}, answer {i}" if len(found) > 1 else where, (prompt, answer, label)))

    def encode(item: tuple[list[Message], Answer, bool]) -> tuple[list[Message], Answer, bool, Conversation]:
        prompt, answer, label = item
        if len(labels[_key(prompt), answer.text]) > 1:
            raise ValueError("labelled right in one row and wrong in another")
        encoded = encode_answer(tokenizer, with_system(prompt, config.data.system_prompt), answer)
        refuse_unknown(tokenizer, encoded)
        if (needs := len(encoded.prompt) + len(encoded.completion)) > config.max_length:
            raise TooLong(needs, config.max_length)
        return prompt, answer, label, encoded

    sifted = sift(answers, encode, what="answers")
    refuse_many_unusable([*read, sifted], say=say)
    by_prompt: dict[str, list[tuple[Answer, bool, Conversation]]] = {}
    questions: dict[str, str] = {}
    for _, (prompt, answer, label, encoded) in sifted.kept:
        by_prompt.setdefault(_key(prompt), []).append((answer, label, encoded))
        questions[_key(prompt)] = first_question(prompt)
    examples = []
    for prompt_key, found in by_prompt.items():
        question = questions[prompt_key]
        group = Group(*shared_prompt([encoded for _, _, encoded in found]))
        examples.append(Example(question, group, [a.text for a, _, _ in found], [right for _, right, _ in found]))
    return examples


def _key(prompt: Sequence[Message]) -> str:
    """Of a prompt: the same for the same messages."""
    return json.dumps([dict(message) for message in prompt], sort_keys=True, default=str)
