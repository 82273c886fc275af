"""Preferences to train on: pairs of a file, the Hub or the policy itself, or completions with a label each."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice
from random import Random

import numpy as np
from transformers import PreTrainedTokenizerBase

from direct_alignment.config import DirectAlignmentConfig
from direct_alignment.loss import Loss
from rlhf.cache import key
from rlhf.candidates import sample_candidates, to_rankings
from rlhf.data.columns import LABELS, refuse_ambiguous
from rlhf.data.preferences import Ranking, parse_labelled, parse_preference
from rlhf.data.ranking_groups import Fitted, Limits, Truncation, describe_cuts, to_group
from rlhf.data.rows import in_epochs, load_rows, refuse_larger_step, refuse_many_unusable, sift, sift_rows
from rlhf.data.splits import split_by_question
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.tasks.problem import Task, with_system

LOOK_AHEAD = 100  # examples among which a mismatched completion that fits is looked for

Say = Callable[[str], None]


@dataclass(frozen=True)
class Example:
    """A pair, the chosen first; or a single completion with a label."""

    group: Group
    desirable: tuple[bool, ...]  # for each completion of the group
    mismatched: Group | None = None  # the same prompt with another prompt's completions
    shared: Group | None = None  # the pair, of whose tokens only as many count as the shorter completion has
    logp_ref: tuple[float, ...] | None = None  # of the group's completions, summed over tokens, nats
    logp_ref_mismatched: tuple[float, ...] | None = None
    logp_ref_shared: tuple[float, ...] | None = None
    question: str = ""  # examples that share it are not independent


@dataclass(frozen=True)
class Preferences:
    train: list[Example]
    held_out: list[Example]
    fingerprint: str
    seed: int

    def batch(self, step: int, count: int) -> list[Example]:
        """The examples of a step: a function of seed and step alone. Shuffled anew every epoch."""
        return in_epochs(self.train, seed=self.seed, first=step * count, count=count)


def load(
    config: DirectAlignmentConfig, loss: Loss, task: Task | None, tokenizer: PreTrainedTokenizerBase, *, say: Say
) -> Preferences:
    """Read or sample the preferences, and keep some apart by question.

    Raises:
        UserError: nothing can be read, more than 5 % of the rows are unusable, or nothing is left.
    """
    limits: Limits = {"max_length": config.max_length, "truncation": config.truncation}
    if config.data.path == "on_policy":
        assert task is not None  # the config has seen to it
        parts = _own_pairs(config, task, tokenizer, say=say)
        read = sift([(f"pair {i}", pair) for i, pair in enumerate([*parts[0], *parts[1]])], lambda it: (it, None))
        train, apart = read.kept[: len(parts[0])], read.kept[len(parts[0]) :]
    else:
        rows = load_rows(config.data.path, split=config.data.split)
        labelled = _labelled(loss, rows)
        if labelled:
            refuse_ambiguous(rows)
        read = sift_rows(rows, parse_labelled if labelled else lambda row: (parse_preference(row), None))
        refuse_many_unusable([read], say=lambda _: None)  # counted again below, with what cannot be encoded
        train, apart = split_by_question(read.kept, lambda it: it[1][0].question, held_out=config.data.held_out)
    Random(config.seed).shuffle(train)
    train = train[: config.max_samples or None]

    def to_parts(item: tuple[bool, tuple[Ranking, bool | None]]) -> tuple[bool, Example, Fitted]:
        held_out, (ranking, label) = item
        return held_out, *to_example(tokenizer, ranking, label, system_prompt=config.system_prompt, **limits)

    chosen = [(where, (False, item)) for where, item in train] + [(where, (True, item)) for where, item in apart]
    encoded = sift(chosen, to_parts, what="rows" if len(chosen) == len(read.kept) else "rows that were chosen")
    refuse_many_unusable([read, encoded], say=say)
    describe_cuts((fitted for _, (_, _, fitted) in encoded.kept), max_length=config.max_length, say=say)
    examples, held_out = ([e for _, (is_apart, e, _) in encoded.kept if is_apart == which] for which in (False, True))
    if not examples or not held_out:
        raise UserError(
            f"data: {len(examples)} examples to train on and {len(held_out)} held-out ones are left",
            hint="Give more rows, or a larger --max_length if they were too long.",
        )
    refuse_larger_step(len(examples), config.batch_size, what="examples")
    if "mismatched" in loss.needs:
        examples, held_out = with_mismatched(examples, **limits), with_mismatched(held_out, **limits)
    if "shared" in loss.needs:
        examples, held_out = with_shared(examples), with_shared(held_out)
    everything = [*examples, *held_out]
    fingerprint = key(digest([e.group for e in everything]), [e.desirable for e in everything])[:16]
    return Preferences(examples, held_out, fingerprint, config.seed)


def _labelled(loss: Loss, rows: Sequence[tuple[str, object]]) -> bool:
    """Whether rows are single completions with labels, for a loss that takes such: by the first row that tells."""
    told = (row for _, row in rows if isinstance(row, Mapping) and not {"chosen", *LABELS}.isdisjoint(row))
    first = next(told, {})
    return "pairs" not in loss.needs and "chosen" not in first and not {*LABELS}.isdisjoint(first)


def digest(groups: Sequence[Group]) -> str:
    """Of every token, and of which ones count."""
    whole = hashlib.sha256()
    for group in groups:
        for part in (group.prompt, *group.completions, *group.loss_mask):
            whole.update(len(part).to_bytes(4, "big") + np.asarray(part, dtype="<i4").tobytes())
        whole.update(len(group.completions).to_bytes(4, "big"))
    return whole.hexdigest()


def _own_pairs(
    config: DirectAlignmentConfig, task: Task, tokenizer: PreTrainedTokenizerBase, *, say: Say
) -> tuple[list[Ranking], list[Ranking]]:
    """Pairs of the model's own completions, of training problems and of held-out ones."""
    data = config.data
    say(f"data: sampling {data.candidates} completions of {data.problems} problems, unless the cache has them")

    def pairs(problems: list, seed: int) -> list[Ranking]:
        candidates = sample_candidates(
            config.model_name,
            task,
            problems,
            count=data.candidates,
            max_new_tokens=config.max_new_tokens,
            seed=seed,
            system_prompt=config.system_prompt,
            tokenizer=tokenizer,
        )
        return to_rankings(candidates, seed=seed, per_problem=data.per_problem)

    train = pairs(task.train_problems(seed=config.seed, first=0, count=data.problems), config.seed)
    held_out = pairs(task.held_out_problems(data.held_out), 0)
    if not train or not held_out:
        raise UserError(
            f"data: {config.model_name} has all completions of a problem right or all wrong on {config.task}",
            hint="There is nothing to prefer. Take an easier or harder task_config, or more data.candidates.",
        )
    return train, held_out


def to_examples(
    tokenizer: PreTrainedTokenizerBase,
    rankings: Sequence[Ranking],
    labels: Sequence[bool] | None,
    *,
    max_length: int,
    truncation: Truncation,
    system_prompt: str | None,
    say: Say,
) -> list[Example]:
    """Rankings, or single completions with labels, tokenized. What is left out or cut is counted and said.

    Raises:
        UserError: more than 5 % cannot be used.
    """
    items = [(f"pair {i}", pair) for i, pair in enumerate(zip(rankings, labels or [None] * len(rankings), strict=True))]
    limits: Limits = {"max_length": max_length, "truncation": truncation}
    encoded = sift(
        items, lambda item: to_example(tokenizer, *item, system_prompt=system_prompt, **limits), what="pairs"
    )
    refuse_many_unusable([encoded], say=say)
    describe_cuts((fitted for _, (_, fitted) in encoded.kept), max_length=max_length, say=say)
    return [example for _, (example, _) in encoded.kept]


def to_example(
    tokenizer: PreTrainedTokenizerBase,
    ranking: Ranking,
    label: bool | None,
    *,
    max_length: int,
    truncation: Truncation,
    system_prompt: str | None,
) -> tuple[Example, Fitted]:
    """Tokenized. Of a ranking of more than two, the best and the worst make the pair.

    Raises:
        ValueError: with the reason why it cannot be used.
    """
    ends = slice(None) if label is not None else slice(None, None, len(ranking.completions) - 1)
    shaped = replace(ranking.take(ends), prompt=with_system(ranking.prompt, system_prompt))
    fitted = to_group(tokenizer, shaped, max_length=max_length, truncation=truncation)
    return Example(fitted.group, (True, False) if label is None else (label,), question=ranking.question), fitted


def with_shared(examples: Sequence[Example]) -> list[Example]:
    """Each pair also with only the first tokens counting, as many as its shorter completion has."""

    def first(counts: Sequence[bool], most: int) -> list[bool]:
        return [counted and so_far <= most for counted, so_far in zip(counts, accumulate(counts), strict=True)]

    made = []
    for example in examples:
        masks = example.group.loss_mask
        shorter = min(map(sum, masks))
        made.append(replace(example, shared=replace(example.group, loss_mask=[first(own, shorter) for own in masks])))
    return made


def with_mismatched(examples: Sequence[Example], *, max_length: int, truncation: Truncation) -> list[Example]:
    """Each prompt with the completions of the next example that has another prompt and fits behind this one, going
    round; where none of the next ones fits, those of the first, cut as `truncation` says.

    Fixed for the run, so that the reference's log-probabilities of them are computed once.

    Raises:
        UserError: all prompts are the same.
    """
    made = []
    for i, example in enumerate(examples):
        prompt = list(example.group.prompt)
        following = (examples[(i + step) % len(examples)].group for step in range(1, len(examples)))
        others = (group for group in following if list(group.prompt) != prompt)
        first = next(others, None)
        if first is None:
            raise UserError(
                "data: kto compares with completions of other prompts, and there is only one prompt",
                hint="Give rows with other prompts, or take a loss that compares within a prompt, such as dpo.",
            )
        near = chain([first], islice(others, LOOK_AHEAD))
        other = next((group for group in near if len(prompt) + _longest(group) <= max_length), first)
        made.append(replace(example, mismatched=_behind(prompt, other, max_length=max_length, truncation=truncation)))
    return made


def _behind(prompt: list[int], other: Group, *, max_length: int, truncation: Truncation) -> Group:
    """The completions of a group behind another prompt, within `max_length` tokens."""
    if truncation == "keep_end":
        return replace(other, prompt=prompt[-(max_length - _longest(other)) :])
    room = max_length - len(prompt)
    return Group(prompt, [own[:room] for own in other.completions], [own[:room] for own in other.loss_mask])


def _longest(group: Group) -> int:
    return max(map(len, group.completions))


def class_imbalance(examples: Sequence[Example], settings: Mapping[str, float]) -> str:
    """A warning where the weights of the two classes are out of balance, or "".

    KTO's paper asks for desirable_weight * n_desirable / (undesirable_weight * n_undesirable) in [1, 4/3].
    """
    up, down = settings["desirable_weight"], settings["undesirable_weight"]
    labels = [label for example in examples for label in example.desirable]
    wanted, unwanted = sum(labels), len(labels) - sum(labels)
    if not wanted or not unwanted:
        return f"All {len(labels)} completions have the same label: there is nothing to tell apart."
    ratio = up * wanted / max(1e-9, down * unwanted)
    if 1 <= ratio <= 4 / 3:
        return ""
    return (
        f"{wanted} completions are wanted and {unwanted} are not; weighed, their ratio is {ratio:.2f}, and the paper "
        f"asks for 1 to 1.33: desirable_weight {down * unwanted / wanted:.2f}, for example."
    )
