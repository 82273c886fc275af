"""The reference that log-ratios are taken against, and where its log-probabilities come from.

It is the model as it was loaded (`--model_name X` moves it along); with LoRA, the weights under the adapters, so that
no second model is needed. While it stays, its log-probabilities of the data are computed once and cached on disk, for
all losses, epochs and runs. One that moves (TR-DPO) is kept, saved with every checkpoint, and asked anew each step.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from transformers import PreTrainedModel

from direct_alignment.config import DirectAlignmentConfig
from direct_alignment.data import Example, digest
from direct_alignment.log_ratios import score_all
from direct_alignment.loss import Loss
from rlhf.cache import cached, fingerprint, key
from rlhf.groups import Group, Layout
from rlhf.logprobs import Scorer
from rlhf.models.frozen import without_adapters
from rlhf.models.offload import on_device
from rlhf.models.policy import move_towards
from rlhf.run.session import Session


class Reference:
    """The reference of a run.

    Args:
        compared: whether the loss takes log-ratios against it; otherwise it only measures KL.
        every: steps between moves towards the policy; 0 for a reference that stays.
        mix: how far a move goes, 1 being all the way.
        keep: whether the initial model stays in memory, for when new data are scored all the time.
    """

    def __init__(
        self,
        session: Session,
        policy: PreTrainedModel,
        layout: Layout,
        *,
        compared: bool = True,
        every: int,
        mix: float,
        keep: bool,
    ):
        self.session, self.policy, self.layout = session, policy, layout
        self.compared, self.every, self.mix = compared, every, mix
        self.kept = session.load_reference() if keep and not session.config.lora_rank else None
        self.moving = session.load_reference(moves=True) if every else None
        if self.moving is not None:
            session.accelerator.register_for_checkpointing(self.moving)

    @property
    def moves(self) -> bool:
        return self.moving is not None

    @contextmanager
    def initial(self) -> Generator[PreTrainedModel]:
        """The model as it was before training, loaded for as long as it is asked for."""
        if self.session.config.lora_rank:
            with without_adapters(self.policy):
                yield self.policy
        else:
            network = self.kept or self.session.load_reference()
            with on_device(network, self.policy.device):
                yield network

    def initial_logp(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """log pi(completion | prompt) under the initial model of each group's completions, nats."""
        with self.initial() as network:
            return score_all(Scorer(network), groups, self.session.accelerator, self.layout)

    def score(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with the log-probabilities of the reference as it is now, where the loss compares with it."""
        if not self.compared:
            return list(examples)
        moving = self.moving
        if moving is None:
            return _with(examples, self.initial_logp)
        accelerator = self.session.accelerator
        with on_device(moving, self.policy.device):
            return _with(examples, lambda groups: score_all(Scorer(moving), groups, accelerator, self.layout))

    def score_once(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with the initial model's log-probabilities, from the cache where they were ever computed;
        unchanged where the loss does not compare with it."""
        if not self.compared:
            return list(examples)
        return _with(examples, self._cached_logp)

    def _cached_logp(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        """The key holds every token that is scored, and so what the chat template made of the text, and the bytes of
        the model: other data, another template or other weights are another entry."""
        model = fingerprint(self.session.config.model_name)
        entry = key(model, self.session.precision, digest(groups), "reference log-probabilities 1")
        flat = iter(cached("reference", entry, lambda: [x for sums in self.initial_logp(groups) for x in sums]))
        return [tuple(next(flat) for _ in group.completions) for group in groups]

    def follow(self, done: int) -> None:
        """Move towards the policy after every `every` steps; a frozen reference stays."""
        if self.moving is not None and done % self.every == 0:
            move_towards(self.moving, self.policy, mix=self.mix)


def open_reference(
    session: Session, policy: PreTrainedModel, config: DirectAlignmentConfig, loss: Loss
) -> Reference | None:
    """What the config asks for; None for `reference: none`."""
    if config.reference != "initial":
        return None
    return Reference(
        session,
        policy,
        session.layout,
        compared="reference" in loss.needs,
        every=config.sync_reference_every,
        mix=config.sync_reference_mix,
        keep=bool(config.online_every),
    )


def _with(examples: Sequence[Example], logp: Callable[[Sequence[Group]], list[tuple[float, ...]]]) -> list[Example]:
    """The examples with the log-probabilities that `logp` finds.

    Mismatched groups, and shared tokens, are scored apart from the pairs. So the pairs are cached once for all losses,
    and scored in the same micro-batches as under the policy, which makes a log-ratio of the same weights exactly 0.
    """
    own = logp([e.group for e in examples])
    mismatched = _apart([e.mismatched for e in examples], logp)
    shared = _apart([e.shared for e in examples], logp)
    return [
        replace(e, logp_ref=sums, logp_ref_mismatched=of_mismatched, logp_ref_shared=of_shared)
        for e, sums, of_mismatched, of_shared in zip(examples, own, mismatched, shared, strict=True)
    ]


def _apart(
    groups: Sequence[Group | None], logp: Callable[[Sequence[Group]], list[tuple[float, ...]]]
) -> list[tuple[float, ...] | None]:
    """Log-probabilities of those groups that there are."""
    there = [group for group in groups if group is not None]
    found = iter(logp(there) if there else [])
    return [None if group is None else next(found) for group in groups]
