"""The teachers of a run: loaded, of the student's vocabulary, and asked for their hidden states."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distillation.batches import Answers, refuse_long_texts
from distillation.config import DistillationConfig
from distillation.distributions import TeacherStates
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.logprobs import completion_states
from rlhf.models.frozen import without_adapters
from rlhf.models.policy import load_tokenizer, move_towards
from rlhf.run.session import Session

SHOWN = 3  # tokens that a message names


class Teachers:
    """One model, or one for each task.

    Args:
        student: the model that is trained, which is its own teacher where the config names no other.
    """

    def __init__(self, session: Session, student: PreTrainedModel):
        self.session, self.student = session, student
        self.config: DistillationConfig = session.command.config
        self.networks: dict[str, PreTrainedModel] = {}
        self.shared_prefix: dict[str, bool] = {}
        for name in self.config.teacher_names:
            self.networks[name], self.shared_prefix[name] = self._load(name)

    def _load(self, name: str) -> tuple[PreTrainedModel, bool]:
        """A teacher, and whether it takes shared-prefix rows."""
        config, session = self.config, self.session
        if not config.is_self:
            network, shared_prefix = session.load_teacher(name, key=_key(config))
            self._refuse_fewer_rows(network, f"{_key(config)}: '{name}'")
            return network, shared_prefix
        if config.teacher_moves == "live" or config.lora_rank:
            return self.student, session.shared_prefix
        copy = session.load_reference(moves=config.teacher_moves == "following")
        if config.teacher_moves == "following":
            session.accelerator.register_for_checkpointing(copy)  # it moves: part of the run's state
        return copy, session.shared_prefix

    def _refuse_fewer_rows(self, network: PreTrainedModel, label: str) -> None:
        """Raises: UserError, if the student can say a token that the teacher has no number for."""
        its, own = (len(model.get_output_embeddings().weight) for model in (network, self.student))
        if its < own:
            raise UserError(
                f"{label} has rows for {its} tokens, and the student has {own}",
                hint="student.resize_token_embeddings cuts the rows that no token of the tokenizer has.",
            )

    @contextmanager
    def network(self, name: str) -> Generator[PreTrainedModel]:
        """A teacher as it is now; a fixed one of a student with adapters lies under them."""
        network = self.networks[name]
        if network is self.student and self.config.teacher_moves == "fixed":
            with without_adapters(network):
                yield network
        else:
            yield network

    @torch.no_grad()
    def states(self, name: str, answers: Sequence[Answers]) -> TeacherStates:
        """What a teacher makes of completions, each behind the prompt that the teacher sees: hidden states (n, t, e).

        Completions behind the same prompt share a row.

        Raises:
            UserError: the teacher cannot read as much.
        """
        refuse_long_texts(self.networks[name], answers, f"{_key(self.config)}: '{name}'")
        groups: list[Group] = []
        order: list[int] = []  # of the completions in the groups: their numbers among all of `answers`
        first = 0
        for one in answers:
            by_prompt: dict[tuple[int, ...], list[int]] = {}
            for i, prompt in enumerate(one.teacher_prompts):
                by_prompt.setdefault(tuple(prompt), []).append(i)
            for prompt, members in by_prompt.items():
                groups.append(Group(prompt, [one.group.completions[i] for i in members]))
                order += [first + i for i in members]
            first += len(one.teacher_prompts)
        accelerator = self.session.accelerator
        with self.network(name) as network, accelerator.autocast():
            found = completion_states(
                network,
                groups,
                token_budget=self.config.token_budget,
                shared_prefix=self.shared_prefix[name],
                device=accelerator.device,
            )
            head = network.get_output_embeddings().weight.detach()
        hidden = torch.empty_like(found)
        hidden[torch.tensor(order, device=found.device)] = found
        return TeacherStates(hidden, head, self.config.teacher_temperature)

    def end_step(self, done: int) -> None:
        """Let a teacher that follows move towards the student."""
        config = self.config
        if config.teacher_moves == "following" and done % config.sync_teacher_every == 0:
            (copy,) = self.networks.values()
            move_towards(copy, self.student, mix=config.sync_teacher_mix)


def refuse_other_vocabularies(tokenizer: PreTrainedTokenizerBase, config: DistillationConfig) -> None:
    """See that every teacher has the student's tokens, each with the same id: log-probabilities are compared by id.

    Raises:
        UserError: with the tokens that differ.
    """
    if config.is_self:
        return
    for name in config.teacher_names:
        key = _key(config)
        refuse_other_vocabulary(tokenizer, load_tokenizer(name, key=key), f"{key}: '{name}'")


def _key(config: DistillationConfig) -> str:
    """The setting that names the teachers."""
    return "teachers" if config.teachers else "teacher"


def refuse_other_vocabulary(tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, label: str) -> None:
    """Raises: UserError, if a token of one is not in the other, or has another id there."""
    own, its = tokenizer.get_vocab(), other.get_vocab()
    if own == its:
        return
    moved = sorted(token for token in own.keys() & its.keys() if own[token] != its[token])
    found = [
        f"{len(tokens)} {what} ({', '.join(map(repr, tokens[:SHOWN]))}{', ...' if len(tokens) > SHOWN else ''})"
        for tokens, what in (
            (sorted(own.keys() - its.keys()), "tokens of the student are not in it"),
            (sorted(its.keys() - own.keys()), "of its tokens are not in the student"),
            (moved, "have other ids"),
        )
        if tokens
    ]
    raise UserError(
        f"{label} has another vocabulary than the student: {'; '.join(found)}",
        hint="Log-probabilities are compared token by token: take a teacher of the student's family. To learn from its "
        "texts alone, sample them with rlhf.generate: the file is texts.path, with objective sequence and no teacher.",
    )
