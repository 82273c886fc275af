"""Metrics of distillation, and advice for a run that cannot learn."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from distillation.batches import Answers
from distillation.config import DistillationConfig
from distillation.distributions import Compared
from rlhf.distributed import all_reduce_sum
from rlhf.groups import Rows

METRICS: dict[str, dict[str, Any]] = {
    "loss": {"description": "The objective, mean over the counted tokens of the step", "unit": "nats"},
    "teacher/reverse_kl": {
        "description": "KL(student || teacher) over the vocabulary, mean over the tokens of the step",
        "unit": "nats",
    },
    "teacher/forward_kl": {
        "description": "KL(teacher || student) over the vocabulary, mean over the tokens of the step",
        "unit": "nats",
    },
    "teacher/favours_right": {
        "description": "log q - log pi of a token: mean in right completions minus mean in wrong ones",
        "unit": "nats",
    },
    "teacher/says_nothing": {
        "description": "Share of completions left out, since the teacher would see no more than the student",
        "unit": "",
    },
    "policy/entropy": {"description": "Mean entropy of the student's distributions", "unit": "nats"},
    "reward/exact": {"description": "Share of the student's completions that are right", "unit": ""},
    "texts/on_policy": {"description": "Share of the step's completions that the student sampled", "unit": ""},
    "texts/right": {"description": "Share of the teacher's completions that are right", "unit": ""},
    "length/mean": {"description": "Mean length of a completion", "unit": "tokens"},
    "length/truncated": {"description": "Share of the student's completions cut at max_new_tokens", "unit": ""},
    "time/sampling_s": {"description": "Sampling and verifying", "unit": "s"},
    "time/teacher_s": {"description": "The teacher's passes over the completions", "unit": "s"},
}
OF_COMPARISON = {"teacher/reverse_kl", "teacher/forward_kl", "teacher/favours_right"}
OF_STUDENT = {"reward/exact", "length/truncated"}


def describe_metrics(config: DistillationConfig, *, verifies: bool) -> dict[str, dict[str, Any]]:
    """The metrics of a run.

    Args:
        verifies: whether the task can tell right from wrong.
    """
    absent: set[str] = set()
    if not config.compares:
        absent |= OF_COMPARISON
    if config.teacher_sees == "question":
        absent |= {"teacher/says_nothing"}
    if config.on_policy_share == 0:
        absent |= OF_STUDENT | {"teacher/favours_right"}
    if config.on_policy_share == 1 or config.texts.path != "teacher":
        absent |= {"texts/right"}
    if not verifies:
        absent |= {"reward/exact", "texts/right", "teacher/favours_right"}
    return {name: about for name, about in METRICS.items() if name not in absent}


class StepSums:
    """Sums over the completions and tokens of a step, then means over all processes."""

    def __init__(self, batch: Sequence[Answers]):
        self.found: dict[str, list[float]] = {
            name: [0.0, 0.0] for name in (*METRICS, "sampled", "right", "wrong")
        }  # sum, count
        self.last: dict[str, float] = {}
        self.loss, self.updates = 0.0, 0
        for one in batch:
            self._add_completions(one)

    def _add_completions(self, one: Answers) -> None:
        lengths = [len(completion) for completion in one.group.completions]
        own = one.sampled is not None
        self._add("length/mean", lengths)
        self._add("texts/on_policy", [float(own)] * len(lengths))
        if one.group.loss_mask:
            self._add("teacher/says_nothing", [float(not any(mask)) for mask in one.group.loss_mask])
        if one.sampled is not None:
            self._add("sampled", lengths)
            self._add("length/truncated", one.sampled.truncated)
        if one.candidates is not None:
            exact = [verdict.exact for verdict in one.candidates.verdicts if verdict is not None]
            self._add("reward/exact" if own else "texts/right", exact)

    def _add(self, name: str, values: Sequence[float]) -> None:
        self.found[name][0] += float(sum(values))
        self.found[name][1] += len(values)

    def add(self, compared: Compared, rows: Rows, answers: Sequence[Answers]) -> None:
        """The tokens of a micro-batch of these answers."""
        tokens = int(rows.mask.sum())
        for name, measure in (
            ("teacher/reverse_kl", compared.reverse_kl),
            ("teacher/forward_kl", compared.forward_kl),
            ("policy/entropy", compared.entropy),
        ):
            self.found[name][0] += float(measure.detach().sum())
            self.found[name][1] += tokens
        gap = (compared.logp_teacher - compared.logp).detach() * rows.mask
        exact = _exact(answers).to(gap.device)[rows.index]
        for name, verdict in (("right", 1.0), ("wrong", 0.0)):
            self.found[name][0] += float(gap[exact == verdict].sum())
            self.found[name][1] += float(rows.mask[exact == verdict].sum())

    def end_update(self, loss: float, *, lr: float, grad_norm: float) -> None:
        self.loss += loss
        self.updates += 1
        self.last = {"optim/lr": lr, "optim/grad_norm": grad_norm, "optim/steps": float(self.updates)}

    def means(self, described: Mapping[str, Any], accelerator: Accelerator) -> tuple[dict[str, float], int]:
        """The metrics of the step that are described, over all processes; and how many tokens it was trained on."""
        names = list(self.found)
        flat = all_reduce_sum([self.loss, *(x for name in names for x in self.found[name])], accelerator)
        sums = {name: flat[1 + 2 * i : 3 + 2 * i] for i, name in enumerate(names)}
        means = {name: total / count for name, (total, count) in sums.items() if count}
        if "right" in means and "wrong" in means:
            means["teacher/favours_right"] = means["right"] - means["wrong"]
        means["loss"] = flat[0] / max(1, self.updates)
        shown = {name: value for name, value in means.items() if name in described}
        shown["sampler/tokens"] = sums["sampled"][0]
        return shown | self.last, round(sums["policy/entropy"][1])


def _exact(answers: Sequence[Answers]) -> torch.Tensor:
    """(n,) 1 where a completion of the student is right, 0 where it is wrong, -1 where that is not known."""
    found: list[float] = []
    for one in answers:
        known = one.candidates.verdicts if one.candidates is not None and one.sampled is not None else None
        found += (
            [-1.0] * len(one.group.completions)
            if known is None
            else [-1.0 if verdict is None else verdict.exact for verdict in known]
        )
    return torch.tensor(found)


class Adviser:
    """Watches the last few steps and says why nothing is being learned."""

    def __init__(self, window: int = 5):
        self.recent: deque[Mapping[str, float]] = deque(maxlen=window)
        self.first: Mapping[str, float] | None = None

    def check(self, metrics: Mapping[str, float]) -> list[str]:
        """Advice after a step with these metrics; most steps have none."""
        self.recent.append(metrics)
        first = self.first = self.first or metrics
        if len(self.recent) < (self.recent.maxlen or 0):
            return []
        advice = []

        def always(condition) -> bool:
            return all(condition(m) for m in self.recent)

        if always(lambda m: m.get("teacher/says_nothing", 0.0) > 0.95):
            advice.append(
                "Over 95 % of the completions have no right attempt to the same prompt that the teacher could see, so "
                "there is no gradient. Raise group_size, make the task easier, or set teacher_sees answer."
            )
        if always(lambda m: m.get("teacher/reverse_kl", 1.0) < 1e-4 and m.get("teacher/forward_kl", 1.0) < 1e-4):
            advice.append("Student and teacher agree on every token: nothing is left to learn from this teacher.")
        if always(lambda m: m.get("teacher/favours_right", 0.0) < -0.02):
            advice.append(
                "The teacher favours wrong completions over right ones (teacher/favours_right): it knows no better "
                "than the student, or cannot read what teacher_sees shows it."
            )
        key = "teacher/reverse_kl"
        if always(lambda m: m.get(key, 0.0) > 2 * first.get(key, 0.0) and m.get("texts/on_policy") == 1):
            advice.append(
                "The student is twice as far from its teacher as at the start (teacher/reverse_kl). Lower lr, or take "
                "objective forward_kl or jsd, whose gradient does not vanish where the student is sure and wrong."
            )
        if always(lambda m: m.get("length/truncated", 0.0) > 0.8):
            advice.append(
                "Over 80 % of the student's completions are cut at max_new_tokens: raise max_new_tokens, or check that "
                "the model ever ends its turn."
            )
        if always(lambda m: m.get("texts/right", 1.0) < 0.2):
            advice.append("Under 20 % of the teacher's own texts are right: a lower teacher_temperature sharpens it.")
        return advice
