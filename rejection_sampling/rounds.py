"""A round: completions of the policy as it is, scored, and the selection of them that is learned until the next one.

Axes: b prompts of a round, g completions of each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rejection_sampling.answered import Answered, Selected, may_be_selected
from rejection_sampling.config import RejectionSamplingConfig
from rejection_sampling.diagnostics import in_words, metrics_of
from rejection_sampling.selection import selections
from rlhf.cache import cached, fingerprint, key
from rlhf.data.answers import Answer, sampled_answer
from rlhf.data.rows import in_epochs
from rlhf.distributed import gather, local_shard
from rlhf.errors import UserError
from rlhf.evaluate.reward_model import RewardModelScore
from rlhf.groups import Group
from rlhf.random_keys import Key, of_selection, of_training
from rlhf.run.session import Session
from rlhf.sampling import sample
from rlhf.tasks.encoding import encode_problem
from rlhf.tasks.problem import Problem, Task
from rlhf.text.chat import end_tokens


class Rounds:
    """The rounds of a run. Which problems a round has depends on its number and the seed alone."""

    def __init__(
        self,
        session: Session,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        reward_model: RewardModelScore | None,
    ):
        self.session, self.model, self.tokenizer = session, model, tokenizer
        self.task, self.reward_model = task, reward_model
        self.accelerator = session.accelerator
        self.config: RejectionSamplingConfig = session.command.config
        self.end_tokens = end_tokens(tokenizer)
        self.selected: list[Selected] = []  # of the round so far, the same in every process

    # ---------------------------------------------------------------- what the loop asks for

    def problems(self, number: int) -> list[Problem]:
        """The training problems of round `number`, counted from 0: the next of the stream."""
        size = self.config.prompts_per_round
        return self.task.train_problems(seed=self.config.seed, first=number * size, count=size)

    def begin(self, number: int) -> dict[str, float]:
        """Sample, score and select. Returns metrics of the round.

        Raises:
            UserError: nothing is left to select.
        """
        answered = self._answered(number)
        reward = np.array([it.reward for it in answered])
        allowed = may_be_selected(answered, distinct=self.config.distinct)
        chosen = selections[self.config.selection](
            reward,
            allowed,
            keep=self.config.keep,
            min_reward=self.config.min_reward,
            lot=np.random.default_rng(of_selection(self.config.seed, number)),
        )
        if not chosen.any():
            raise nothing_selected(number, reward, allowed, self.config)
        self.selected = [
            Selected(it.problem.question, it.prompt, list(it.answers[j].tokens), it.answers[j].text, it.reward[j])
            for it, own in zip(answered, chosen, strict=True)
            for j in np.flatnonzero(own)
        ]
        metrics = metrics_of(answered, reward, allowed, chosen)
        self.session.console.say(in_words(number, metrics, self.config))
        sampled = sum(len(answer.tokens) for it in answered for answer in it.answers)
        return {"round": number + 1, "sampler/tokens": float(sampled), **metrics}

    def batch(self, place: int) -> list[Group]:
        """The completions of optimizer step `place` of the round: the selection, shuffled anew for every pass."""
        size = self.config.batch_size
        chosen = in_epochs(self.selected, seed=self.config.seed, first=place * size, count=size)
        return [Group(it.prompt, [it.tokens]) for it in chosen]

    def samples(self, count: int = 4) -> list[dict[str, Any]]:
        """Some of the selection, as records of samples.jsonl."""
        return [it.as_sample() for it in self.selected[:count]]

    def rewards(self, answered: Sequence[tuple[Problem, Sequence[Answer]]]) -> list[float]:
        """The reward model's scores of all completions, for a task without reference answers, which has one."""
        assert self.reward_model is not None, "see refuse_unverified in train"
        return [reward for own in self.reward_model(answered) for reward in own]

    # ---------------------------------------------------------------- checkpoints
    # The policy that sampled a selection is gone, so the selection is part of a run's state.

    def state(self) -> dict[str, Any]:
        return {"selected": [asdict(it) for it in self.selected]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.selected = [Selected(**it) for it in state.get("selected", [])]

    # ---------------------------------------------------------------- sampling

    def _answered(self, number: int) -> list[Answered]:
        """The problems of a round, answered and scored; each process does its share."""
        first = number * self.config.prompts_per_round
        mine = local_shard(list(enumerate(self.problems(number), start=first)), self.accelerator)
        problems = [problem for _, problem in mine]
        prompts = [encode_problem(self.tokenizer, problem, self.config.system_prompt) for problem in problems]
        tokens = self._sample(number, prompts, [of_training(self.config.seed, i) for i, _ in mine])
        answers = [[sampled_answer(self.tokenizer, it) for it in own] for own in tokens]
        verdicts = [
            [self.task.verify(problem, answer.text) for answer in own]
            for problem, own in zip(problems, answers, strict=True)
        ]
        if self.reward_model is not None:
            rewards = self.reward_model(list(zip(problems, answers, strict=True)))
        else:
            rewards = [[0.0 if verdict is None else verdict.exact for verdict in own] for own in verdicts]
        answered = list(map(Answered, problems, prompts, answers, verdicts, rewards))
        return gather(answered, self.accelerator)

    def _sample(self, number: int, prompts: list[list[int]], keys: list[Key]) -> list[list[list[int]]]:
        """Tokens of the completions of each prompt. Those of the first round, whose policy is the model that the config
        names, are kept in the cache for other selections and settings of training."""
        config = self.config
        how: dict[str, Any] = {"completions": config.group_size, "max_new_tokens": config.max_new_tokens}
        how |= {"temperature": config.temperature, **config.kept_tokens}

        def draw() -> list[list[list[int]]]:
            with self.accelerator.autocast():
                sampled = sample(
                    self.model, prompts, end_tokens=self.end_tokens, keys=keys, batch=config.sampling_batch, **how
                )
            return [it.tokens for it in sampled]

        if number:
            return draw()
        policy = [fingerprint(config.model_name), self.session.precision]
        return cached("rounds", key(policy, prompts, keys, how, self.end_tokens), draw)


def nothing_selected(
    number: int, reward: Float[Array, "b g"], allowed: Bool[Array, "b g"], config: RejectionSamplingConfig
) -> UserError:
    sampled = f"none of the {reward.size} completions of round {number + 1} can be selected"
    if not allowed.any():
        return UserError(
            f"{sampled}: all are cut at max_new_tokens {config.max_new_tokens}",
            hint="Raise max_new_tokens, or see whether the model ever ends its turn.",
        )
    return UserError(
        f"{sampled}: the highest reward is {reward[allowed].max():g}, min_reward is {config.min_reward:g}",
        hint="Lower min_reward, make the task easier (task_config), raise group_size, or train on demonstrations first "
        "(instruction_tuning).",
    )
