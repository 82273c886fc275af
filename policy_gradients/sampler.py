"""The sampler: draws prompts, samples completions, rewards them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from policy_gradients.defaults import Recipe
from policy_gradients.rewards import RewardFunction, length_penalties, overlong_penalty
from policy_gradients.rollout import Batch, Rollout, loss_mask
from rlhf.data.answers import sampled_answer
from rlhf.distributed import all_reduce_sum, gather, local_shard
from rlhf.errors import ServerGoneError, UserError
from rlhf.groups import Group
from rlhf.random_keys import of_training
from rlhf.run.interrupts import Stopped
from rlhf.sampling import SampledCompletions, sample
from rlhf.servers.completions import requests
from rlhf.servers.vllm_sampler import VllmSampler
from rlhf.tasks.encoding import encode_problem
from rlhf.tasks.problem import Problem, Task
from rlhf.text.chat import end_tokens, length_up_to

Prompted = tuple[int, Problem, list[int]]  # a problem's number in the training stream, the problem, its prompt


class Sampler:
    """Batches of rollouts of the policy as it is at the time of the call.

    Args:
        vllm: samples the completions; None: they are sampled here.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        reward: RewardFunction,
        accelerator: Accelerator,
        recipe: Recipe,
        vllm: VllmSampler | None = None,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.task = task
        self.reward = reward
        self.accelerator = accelerator
        self.vllm = vllm
        self.config = recipe.config
        self.settings = recipe.sampling
        self.needs = recipe.needs
        self.end_tokens = end_tokens(tokenizer)
        self.step = 0  # batches taken so far
        self.policy = 0  # the step whose policy samples
        self.next_problem = 0  # of the next problem in the training stream
        self.drawn = 0  # problems since the last batch was taken
        self.tokens = 0  # sampled by this process since the last batch was taken
        self.any_mixed = False  # whether a batch so far had a group with right and wrong completions
        self.waiting: list[list[Rollout]] = []  # batches that were sampled and not trained on yet, the oldest first
        self.cut_off: ServerGoneError | Stopped | None = None  # what ended the waiting for a batch that was begun

    def first_problems(self) -> list[Problem]:
        """The problems of the first batch; `sample` checks later ones when they are drawn."""
        return self.task.train_problems(seed=self.config.seed, first=0, count=self.config.prompts_per_step)

    def next_batch(self) -> Batch:
        """The batch to train on now: the one that was sampled `staleness` steps ago.

        With staleness, a server begins now with the last of those that wait, and samples while this process trains; the
        next call takes what it has made. The own sampler shares its device with the training, and samples at once.
        """
        if self.cut_off:
            raise self.cut_off
        if self.vllm is not None and self.config.staleness:
            self._sample_until(self.config.staleness)
            self._renew()
            self._begin(self.vllm)
        else:
            self._renew()
            self._sample_until(self.config.staleness + 1)
        batch = self.batch(self.waiting.pop(0))
        batch.age = self.step - batch.rollouts[0].policy if self.config.staleness else None
        batch.drawn = self.drawn
        mixed = sum(rollout.is_mixed for rollout in batch.rollouts)
        mixed, batch.sampled_tokens = all_reduce_sum([mixed, self.tokens], self.accelerator)
        self.any_mixed = self.any_mixed or mixed > 0
        self.step += 1
        self.drawn = self.tokens = 0
        return batch

    def _renew(self) -> None:
        """Sample from the policy as it is now, from now on."""
        self.policy = self.step
        if self.vllm is not None:
            self.vllm.renew()

    def _begin(self, vllm: VllmSampler) -> None:
        """Have the server begin with the next batch; `draw` takes what it has made."""
        first = self.next_problem
        prompted = self._prompted(range(first, first + self.config.prompts_per_step))
        vllm.begin(requests(**self._completions_of(prompted)))

    def _sample_until(self, count: int) -> None:
        """Sample batches until so many wait."""
        while len(self.waiting) < count:
            first = self.next_problem
            rollouts, self.next_problem = self.draw(first, any_mixed_yet=self.any_mixed)
            self.waiting.append(rollouts)
            self.drawn += self.next_problem - first

    def draw(self, first: int, *, any_mixed_yet: bool = True) -> tuple[list[Rollout], int]:
        """This process's share of the rollouts of problems from number `first` on; and the number to go on from.

        With `resample_rounds`, groups that are all right or all wrong are replaced by those of later problems (DAPO).
        Where too few mixed groups are found in all rounds, they fill the batch.

        Raises:
            UserError: no group is mixed, and none was before (`any_mixed_yet`).
        """
        count = self.config.prompts_per_step
        rounds = self.settings.resample_rounds
        if not rounds:
            return self._round(range(first, first + count)), first + count
        mixed: list[Rollout] = []
        uniform: list[Rollout] = []
        for _ in range(1 + rounds):
            drawn = gather(self._round(range(first, first + count)), self.accelerator)
            first += count
            mixed += [rollout for rollout in drawn if rollout.is_mixed]
            uniform += [rollout for rollout in drawn if not rollout.is_mixed]
            if len(mixed) >= count:
                break
        if not mixed and not any_mixed_yet:
            raise _nothing_to_learn(uniform)
        # In the order of the stream again, so that no optimizer step is made of uniform groups alone.
        chosen = sorted([*mixed, *uniform][:count], key=lambda rollout: rollout.number)
        return local_shard(chosen, self.accelerator), first

    def reward_rollouts(self, prompted: Sequence[Prompted], sampled: Sequence[SampledCompletions]) -> list[Rollout]:
        """Completions of some problems, with their rewards."""
        answers = [[sampled_answer(self.tokenizer, tokens) for tokens in each.tokens] for each in sampled]
        problems = [problem for _, problem, _ in prompted]
        components = self.reward.components(list(zip(problems, answers, strict=True)))
        return [
            Rollout(
                number=number,
                problem=problem,
                prompt=prompt,
                sampled=completions,
                texts=[answer.text for answer in texts],
                components=found,
                reward=self._totals(found, completions),
                policy=self.policy,
            )
            for (number, problem, prompt), completions, texts, found in zip(
                prompted, sampled, answers, components, strict=True
            )
        ]

    def _totals(self, components: Sequence[Mapping[str, float]], sampled: SampledCompletions) -> list[float]:
        rewards = [self.reward.total(each) for each in components]
        if self.config.length_penalty:
            right = [each.get("exact") == 1 for each in components]
            penalties = length_penalties(list(map(len, sampled.tokens)), right, coef=self.config.length_penalty)
            rewards = [reward - penalty for reward, penalty in zip(rewards, penalties, strict=True)]
        if self.settings.truncated != "penalize":
            return rewards
        room = self.config.max_new_tokens
        buffer = self.settings.overlong_buffer
        return [
            reward - overlong_penalty(len(tokens), max_new_tokens=room, overlong_buffer=buffer)
            for reward, tokens in zip(rewards, sampled.tokens, strict=True)
        ]

    def batch(self, rollouts: list[Rollout]) -> Batch:
        """Rollouts as tensors, on the device."""
        device = self.accelerator.device
        groups = [Group(it.prompt, it.sampled.tokens, self._loss_mask(it.sampled)) for it in rollouts]
        logp = [torch.tensor(logp) for it in rollouts for logp in it.sampled.logp]
        batch = Batch(
            rollouts=rollouts,
            groups=groups,
            reward=torch.tensor([it.reward for it in rollouts], device=device),
            length=torch.tensor([len(tokens) for it in rollouts for tokens in it.sampled.tokens]),
            truncated=torch.tensor([cut for it in rollouts for cut in it.sampled.truncated]),
            logp_sampler=pad_sequence(logp, batch_first=True).to(device),
            mask=loss_mask(groups).to(device),
        )
        if "greedy" in self.needs:
            batch.greedy_reward = torch.tensor([it.greedy.reward for it in rollouts if it.greedy], device=device)
        if "components" in self.needs:
            weights = self.reward.weights
            values = [[[own.get(name, 0.0) for name in weights] for own in it.components] for it in rollouts]
            batch.components = torch.tensor(values, device=device)
            batch.weights = torch.tensor(list(weights.values()), device=device)
        return batch

    def _loss_mask(self, sampled: SampledCompletions) -> Sequence[Sequence[bool]]:
        """Which tokens are in the loss; (): all are."""
        if self.settings.truncated != "mask":
            return ()
        return [[not cut] * len(tokens) for cut, tokens in zip(sampled.truncated, sampled.tokens, strict=True)]

    def _round(self, numbers: range) -> list[Rollout]:
        """This process's share of the rollouts of these problems.

        The number of a problem is the key of its random numbers, so the same completions come out however the prompts
        are spread over processes.
        """
        prompted = self._prompted(numbers)
        rollouts = self.reward_rollouts(prompted, self._sample(**self._completions_of(prompted)))
        if "greedy" in self.needs:
            greedy = self._completions_of(prompted) | {"completions": 1, "temperature": 0}
            rollouts = self._beside(rollouts, prompted, self._sample(**greedy))
        return rollouts

    def _prompted(self, numbers: range) -> list[Prompted]:
        problems = self.task.train_problems(seed=self.config.seed, first=numbers.start, count=len(numbers))
        own = local_shard(list(zip(numbers, problems, strict=True)), self.accelerator)
        return [(number, problem, self._prompt(problem)) for number, problem in own]

    def _completions_of(self, prompted: Sequence[Prompted]) -> dict[str, Any]:
        """The arguments of what samples, here or on a server."""
        config = self.config
        return {
            "prompts": [prompt for _, _, prompt in prompted],
            "completions": config.group_size,
            "max_new_tokens": config.max_new_tokens,
            "end_tokens": self.end_tokens,
            "keys": [of_training(config.seed, number) for number, _, _ in prompted],
            "temperature": config.temperature,
            **config.kept_tokens,
        }

    def _sample(self, **how: Any) -> list[SampledCompletions]:
        if self.vllm is not None:
            sampled = self.vllm.sample(requests(**how))
        else:
            with self.accelerator.autocast():
                sampled = sample(self.model, **how, batch=self.config.sampling_batch)
        if self.config.stop_at == "answer":
            sampled = [self._up_to_the_answer(each) for each in sampled]
        self.tokens += sum(len(tokens) for each in sampled for tokens in each.tokens)
        return sampled

    def _beside(
        self, rollouts: Sequence[Rollout], prompted: Sequence[Prompted], greedy: Sequence[SampledCompletions]
    ) -> list[Rollout]:
        """The rollouts, each with the greedy completion of its prompt."""
        rewarded = self.reward_rollouts(prompted, greedy)
        return [replace(rollout, greedy=own) for rollout, own in zip(rollouts, rewarded, strict=True)]

    def _prompt(self, problem: Problem) -> list[int]:
        return encode_problem(self.tokenizer, problem, self.config.system_prompt)

    def _up_to_the_answer(self, sampled: SampledCompletions) -> SampledCompletions:
        """As if sampling had stopped at </answer>: what comes after it is neither rewarded nor trained on."""
        lengths = [length_up_to(self.tokenizer, tokens, "</answer>") for tokens in sampled.tokens]
        return SampledCompletions(
            tokens=[tokens[:length] for tokens, length in zip(sampled.tokens, lengths, strict=True)],
            logp=[logp[:length] for logp, length in zip(sampled.logp, lengths, strict=True)],
            truncated=[cut and length is None for cut, length in zip(sampled.truncated, lengths, strict=True)],
        )

    # ------------------------------------------------------------ checkpoints
    # Batches that wait to be trained on are part of a run's state: the policy that sampled them is gone.

    def state(self) -> dict[str, Any]:
        """In all processes together. A batch that was begun is waited for."""
        if self.vllm is not None and self.vllm.begun is not None:
            try:
                self._sample_until(self.config.staleness)
            except (ServerGoneError, Stopped) as error:
                self.cut_off = error  # without the batch, the run can go on: the policy of that time will sample it
        (tokens,) = all_reduce_sum([self.tokens], self.accelerator)
        return {
            "step": self.step,
            "number": self.next_problem,
            "drawn": self.drawn,
            "tokens": tokens,
            "any_contrast": self.any_mixed,
            "waiting": [self.to_state(rollouts) for rollouts in self.waiting],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.step = self.policy = state.get("step", 0)
        self.next_problem = state.get("number", 0)
        self.drawn = state.get("drawn", 0)
        self.tokens = state.get("tokens", 0) if self.accelerator.is_main_process else 0
        self.any_mixed = state.get("any_contrast", False)
        self.waiting = [self.from_state(rollouts) for rollouts in state.get("waiting", [])]

    def to_state(self, rollouts: list[Rollout]) -> list[dict[str, Any]]:
        """The rollouts of all processes as JSON: what cannot be computed again."""
        return [
            {
                "number": it.number,
                "policy": it.policy,
                **asdict(it.sampled),
                **({"greedy": asdict(it.greedy.sampled)} if it.greedy else {}),
            }
            for it in gather(rollouts, self.accelerator)
        ]

    def from_state(self, state: list[dict[str, Any]]) -> list[Rollout]:
        prompted: list[Prompted] = []
        sampled: list[SampledCompletions] = []
        greedy: list[SampledCompletions] = []
        own = local_shard(state, self.accelerator)
        for saved in own:
            number = saved["number"]
            (problem,) = self.task.train_problems(seed=self.config.seed, first=number, count=1)
            prompted.append((number, problem, self._prompt(problem)))
            sampled.append(SampledCompletions(saved["tokens"], saved["logp"], saved["truncated"]))
            if "greedy" in saved:
                greedy.append(SampledCompletions(**saved["greedy"]))
        rollouts = self.reward_rollouts(prompted, sampled)
        rollouts = [replace(it, policy=saved.get("policy", 0)) for it, saved in zip(rollouts, own, strict=True)]
        return self._beside(rollouts, prompted, greedy) if greedy else rollouts


def _nothing_to_learn(uniform: Sequence[Rollout]) -> UserError:
    """Of groups in which all completions are alike."""
    verified = [rollout for rollout in uniform if rollout.is_verified]
    if not verified:
        return UserError(
            f"in {len(uniform)} groups all completions have the same reward, so there is nothing to learn from",
            hint="Look at what reward_functions give for different completions, or raise group_size or temperature.",
        )
    solved = sum(rollout.components[0]["exact"] == 1 for rollout in verified) / len(verified)
    return UserError(
        f"none of {len(uniform)} groups has both right and wrong completions ({solved:.0%} are all right, "
        f"{1 - solved:.0%} all wrong), so there is nothing to learn from",
        hint="Make the task easier or harder (task_config), raise group_size, or train on demonstrations first "
        "(instruction_tuning). If answers are right but in another form, see answer_in.",
    )
