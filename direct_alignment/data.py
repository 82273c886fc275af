"""Preferences to train on: pairs of a file, the Hub or the policy itself, or completions with a label each."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from direct_alignment.config import DirectAlignmentConfig
from direct_alignment.losses import Loss
from rlhf.cache import key
from rlhf.candidates import sample_candidates, to_rankings
from rlhf.chat import Message
from rlhf.data import Row, in_epochs, load_rows, usable
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.mixture import Questions
from rlhf.preferences import Ranking, parse_preference, split_by_question, to_groups

Say = Callable[[str], None]


@dataclass(frozen=True)
class Example:
    """A pair, the chosen first; or a single completion with a label."""

    group: Group
    desirable: tuple[bool, ...]  # for each completion of the group
    mismatched: Group | None = None  # the same prompt with another prompt's completions
    logp_ref: tuple[float, ...] | None = None  # of the group's completions, summed over tokens, nats
    logp_ref_mismatched: tuple[float, ...] | None = None
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
    config: DirectAlignmentConfig, loss: Loss, task: Questions | None, tokenizer: PreTrainedTokenizerBase, *, say: Say
) -> Preferences:
    """Read or sample the preferences, and keep some apart by question.

    Raises:
        UserError: nothing can be read, more than 5 % of the rows are unusable, or nothing is left.
    """
    if config.data.path == "on_policy":
        assert task is not None  # the config has seen to it
        rankings, apart = _own_pairs(config, task, say=say)
        labels = apart_labels = None
    else:
        rows = load_rows(config.data.path, split=config.data.split)
        if "pairs" not in loss.needs and rows and "label" in rows[0][1]:
            labelled = usable(rows, parse_labelled, say=say)
        else:
            labelled = [(ranking, None) for ranking in usable(rows, parse_preference, say=say)]
        kept, held_out = split_by_question(labelled, lambda it: it[0].question, held_out=config.data.held_out)
        (rankings, labels), (apart, apart_labels) = _unzip(kept), _unzip(held_out)
    order = list(range(len(rankings)))
    Random(config.seed).shuffle(order)
    order = order[: config.max_samples or None]
    rankings, labels = [rankings[i] for i in order], labels and [labels[i] for i in order]

    def examples(rankings: Sequence[Ranking], labels: Sequence[bool] | None) -> list[Example]:
        return to_examples(
            tokenizer,
            rankings,
            labels,
            max_length=config.max_length,
            truncation=config.truncation,
            system_prompt=config.system_prompt,
            say=say,
        )

    train, held_out = examples(rankings, labels), examples(apart, apart_labels)
    if "mismatched" in loss.needs:
        train, held_out = with_mismatched(train), with_mismatched(held_out)
    everything = [*train, *held_out]
    fingerprint = key(digest([e.group for e in everything]), [e.desirable for e in everything])[:16]
    return Preferences(train, held_out, fingerprint, config.seed)


def digest(groups: Sequence[Group]) -> str:
    """Of every token, and of which ones count."""
    whole = hashlib.sha256()
    for group in groups:
        for part in (group.prompt, *group.completions, *group.counts):
            whole.update(len(part).to_bytes(4, "big") + np.asarray(part, dtype="<i4").tobytes())
        whole.update(len(group.completions).to_bytes(4, "big"))
    return whole.hexdigest()


def _own_pairs(config: DirectAlignmentConfig, task: Questions, *, say: Say) -> tuple[list[Ranking], list[Ranking]]:
    """Pairs of the model's own completions, of training problems and of held-out ones."""
    data = config.data
    say(f"data: sampling {data.candidates} completions of {data.problems} problems, or taking them from the cache")

    def pairs(problems: list, seed: int) -> list[Ranking]:
        candidates = sample_candidates(
            config.model_name,
            task,
            problems,
            count=data.candidates,
            max_new_tokens=config.max_new_tokens,
            seed=seed,
            system_prompt=config.system_prompt,
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


def parse_labelled(row: Row) -> tuple[Ranking, bool]:
    """`prompt`, `completion` (text or messages) and `label`: true for wanted, false for unwanted."""
    if row.get("prompt") is None or row.get("completion") is None:
        raise ValueError(f"columns {sorted(row)}: wanted prompt, completion and label")
    label = row.get("label")
    if not isinstance(label, bool | int) or label not in (0, 1):
        raise ValueError(f"label: wanted true or false, found {label!r}")
    # Read as a pair whose other side is a stand-in that no completion equals.
    pair = parse_preference({"prompt": row.get("prompt"), "chosen": row.get("completion"), "rejected": "\0"})
    return replace(pair, completions=pair.completions[:1]), bool(label)


def _unzip(items: Sequence[tuple[Ranking, bool | None]]) -> tuple[list[Ranking], list[bool] | None]:
    labels = [label for _, label in items if label is not None]
    return [ranking for ranking, _ in items], labels or None


def to_examples(
    tokenizer: PreTrainedTokenizerBase,
    rankings: Sequence[Ranking],
    labels: Sequence[bool] | None,
    *,
    max_length: int,
    truncation: Literal["keep_end", "keep_start"],
    system_prompt: str | None,
    say: Say,
) -> list[Example]:
    """Tokenized. Of a ranking of more than two, the best and the worst make the pair."""
    prompts = [_with_system(ranking.prompt, system_prompt) for ranking in rankings]
    ends = [slice(None) if labels else slice(None, None, len(ranking.completions) - 1) for ranking in rankings]
    shaped = [
        replace(ranking, prompt=prompt, completions=ranking.completions[both])
        for ranking, prompt, both in zip(rankings, prompts, ends, strict=True)
    ]
    kept, groups = to_groups(tokenizer, shaped, max_length=max_length, truncation=truncation, say=say)
    if labels is None:
        return [
            Example(group, (True, False), question=ranking.question)
            for ranking, group in zip(kept, groups, strict=True)
        ]
    label_of = {id(ranking): label for ranking, label in zip(shaped, labels, strict=True)}
    return [
        Example(group, (label_of[id(ranking)],), question=ranking.question)
        for ranking, group in zip(kept, groups, strict=True)
    ]


def _with_system(prompt: list[Message], system_prompt: str | None) -> list[Message]:
    if system_prompt is None or prompt[0]["role"] == "system":
        return prompt
    return [{"role": "system", "content": system_prompt}, *prompt]


def with_mismatched(examples: Sequence[Example]) -> list[Example]:
    """Each prompt with the completions of the next example that has another prompt, going round.

    Fixed for the run, so that the reference's log-probabilities of them are computed once.

    Raises:
        UserError: all prompts are the same.
    """
    made = []
    for i, example in enumerate(examples):
        following = (examples[(i + step) % len(examples)] for step in range(1, len(examples)))
        other = next((e for e in following if list(e.group.prompt) != list(example.group.prompt)), None)
        if other is None:
            raise UserError("data: kto compares with completions of other prompts, and there is only one prompt")
        made.append(replace(example, mismatched=replace(other.group, prompt=example.group.prompt)))
    return made


def class_weights(examples: Sequence[Example], settings: Mapping[str, float]) -> str:
    """What to say where the classes' weights are out of balance, or "".

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
