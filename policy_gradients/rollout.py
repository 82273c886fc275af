"""Rollouts: prompts, their completions, and what was made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.rewards import Judge, overlong_penalty
from rlhf.distributed import gather, share
from rlhf.errors import UserError
from rlhf.evaluation import messages_for
from rlhf.groups import Group
from rlhf.random_keys import of_training
from rlhf.sampling import Sampled, refuse_long_prompts, sample
from rlhf.tasks.problem import Problem, Task
from rlhf.text.answers import sampled_answer
from rlhf.text.chat import encode_prompt, end_tokens, length_up_to, refuse_unknown_prompts

Asked = tuple[int, Problem, list[int]]  # a problem's number in the training stream, the problem, its prompt


@dataclass(frozen=True)
class Rollout:
    """One prompt with its g completions, judged."""

    number: int  # of the problem in the training stream; the key of its random numbers
    problem: Problem
    prompt: list[int]
    sampled: Sampled
    texts: list[str]
    parts: list[dict[str, float]]  # of each completion's reward, unweighted
    reward: list[float]

    @property
    def contrast(self) -> bool:
        """Whether some completions are right and some wrong. By exact success, whatever else the reward pays for."""
        return len({parts["exact"] for parts in self.parts}) > 1


@dataclass(frozen=True)
class Batch:
    """Rollouts of one process as tensors: b prompts with g completions each, n = b * g."""

    rollouts: list[Rollout]
    groups: list[Group]
    reward: Float[Tensor, "b g"]
    length: Int[Tensor, " n"]
    truncated: Bool[Tensor, " n"]
    logp_sampler: Float[Tensor, "n t"]  # what the sampler said; zero behind the end
    mask: Bool[Tensor, "n t"]  # True = the token counts in the loss

    @property
    def said(self) -> Bool[Tensor, "n t"]:
        """True = a token of a completion, whether or not it counts in the loss."""
        return torch.arange(self.mask.shape[1], device=self.mask.device) < self.length[:, None].to(self.mask.device)

    def samples(self, count: int = 4) -> list[dict[str, Any]]:
        """The first completion of some prompts, as samples.jsonl wants them."""
        return [
            {
                "prompt": it.problem.question,
                "completion": it.texts[0],
                "answer": it.problem.answer,
                "reward": it.parts[0],
                "total": it.reward[0],
            }
            for it in self.rollouts[:count]
        ]


class Sampler:
    """Asks, samples and judges; the policy is the one at the time of the call."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        judge: Judge,
        accelerator: Accelerator,
        config: PolicyGradientConfig,
    ):
        self.model, self.tokenizer, self.task, self.judge = model, tokenizer, task, judge
        self.accelerator, self.config = accelerator, config
        self.end_tokens = end_tokens(tokenizer)

    def refuse_unreadable(self, problems: Sequence[Problem]) -> None:
        """See that the model can read these problems' prompts with max_new_tokens more; later ones are seen when drawn.

        Raises:
            UserError: if it cannot.
        """
        prompts = [encode_prompt(self.tokenizer, messages_for(it, self.config.system_prompt)) for it in problems]
        refuse_unknown_prompts(self.tokenizer, prompts)
        refuse_long_prompts(self.model, prompts, self.config.max_new_tokens)

    def draw(self, first: int, *, any_contrast_yet: bool = True) -> tuple[list[Rollout], int]:
        """This process's share of a batch of rollouts of problems number `first` on, and the number to go on from.

        With `resample_rounds`, groups all right or all wrong are replaced by those of later problems (DAPO). What is
        still missing after the last round is filled with them.

        Raises:
            UserError: no group has contrast, and none had before (`any_contrast_yet`).
        """
        count, rounds = self.config.prompts_per_step, self.config.resample_rounds or 0
        if not rounds:
            return self._round(range(first, first + count)), first + count
        good: list[Rollout] = []
        dull: list[Rollout] = []
        for _ in range(1 + rounds):
            drawn = gather(self._round(range(first, first + count)), self.accelerator)
            first += count
            good += [rollout for rollout in drawn if rollout.contrast]
            dull += [rollout for rollout in drawn if not rollout.contrast]
            if len(good) >= count:
                break
        if not good and not any_contrast_yet:
            solved = sum(rollout.parts[0]["exact"] == 1 for rollout in dull) / len(dull)
            raise UserError(
                f"none of {len(dull)} groups has both right and wrong completions ({solved:.0%} are all right, "
                f"{1 - solved:.0%} all wrong), so there is nothing to learn from",
                hint="Make the task easier or harder (task_config), raise group_size, or train on demonstrations first "
                "(instruction_tuning). If answers are right but in another form, see answer_in.",
            )
        # In the order of the stream again, so that no optimizer step is made of fillers alone.
        chosen = sorted([*good, *dull][:count], key=lambda rollout: rollout.number)
        return share(chosen, self.accelerator), first

    def judged(self, asked: Sequence[Asked], sampled: Sequence[Sampled]) -> list[Rollout]:
        """What was sampled for some problems, with its rewards."""
        answers = [[sampled_answer(self.tokenizer, tokens) for tokens in one.tokens] for one in sampled]
        parts = self.judge.judge([(problem, own) for (_, problem, _), own in zip(asked, answers, strict=True)])
        return [
            Rollout(*it, one, [answer.text for answer in own], its_parts, self._rewards(its_parts, one))
            for it, one, own, its_parts in zip(asked, sampled, answers, parts, strict=True)
        ]

    def _rewards(self, parts: Sequence[Mapping[str, float]], sampled: Sampled) -> list[float]:
        config = self.config
        reward = [self.judge.weigh(it) for it in parts]
        if config.truncated == "penalize":
            assert config.overlong_buffer is not None  # resolve has filled it in
            limit, buffer = config.max_new_tokens, config.overlong_buffer
            reward = [
                r - overlong_penalty(len(t), max_new_tokens=limit, overlong_buffer=buffer)
                for r, t in zip(reward, sampled.tokens, strict=True)
            ]
        return reward

    def batch(self, rollouts: list[Rollout]) -> Batch:
        """Rollouts as tensors, on the device."""
        sampled = [it.sampled for it in rollouts]
        length = torch.tensor([len(tokens) for one in sampled for tokens in one.tokens])
        truncated = torch.tensor([cut for one in sampled for cut in one.truncated])
        logp = pad_sequence([torch.tensor(logp) for one in sampled for logp in one.logp], batch_first=True)
        mask = torch.arange(logp.shape[1]) < length[:, None]
        if self.config.truncated == "mask":
            mask &= ~truncated[:, None]
        device = self.accelerator.device
        return Batch(
            rollouts=rollouts,
            groups=[Group(it.prompt, it.sampled.tokens, self._counts(it.sampled)) for it in rollouts],
            reward=torch.tensor([it.reward for it in rollouts]),
            length=length,
            truncated=truncated,
            logp_sampler=logp.to(device),
            mask=mask.to(device),
        )

    def _counts(self, sampled: Sampled) -> Sequence[Sequence[bool]]:
        if self.config.truncated != "mask":
            return ()
        return [[not cut] * len(tokens) for cut, tokens in zip(sampled.truncated, sampled.tokens, strict=True)]

    def _round(self, numbers: range) -> list[Rollout]:
        """This process's share. A problem's number is the key of its random numbers, so the same completions come out
        however the prompts are spread over processes."""
        config = self.config
        problems = self.task.train_problems(seed=config.seed, first=numbers.start, count=len(numbers))
        mine = [self._asked(*it) for it in share(list(zip(numbers, problems, strict=True)), self.accelerator)]
        with self.accelerator.autocast():
            sampled = sample(
                self.model,
                [prompt for _, _, prompt in mine],
                completions=config.group_size,
                max_new_tokens=config.max_new_tokens,
                end_tokens=self.end_tokens,
                keys=[of_training(config.seed, number) for number, _, _ in mine],
                temperature=config.temperature,
                top_k=config.top_k,
                top_p=config.top_p,
                batch=config.sampling_batch,
            )
        if config.stop_at == "answer":
            sampled = [self._up_to_the_answer(one) for one in sampled]
        return self.judged(mine, sampled)

    def _up_to_the_answer(self, sampled: Sampled) -> Sampled:
        """As if sampling had stopped at </answer>: what was said after it is neither judged nor learned from."""
        said = [length_up_to(self.tokenizer, tokens, "</answer>") for tokens in sampled.tokens]
        return Sampled(
            tokens=[tokens[:n] for tokens, n in zip(sampled.tokens, said, strict=True)],
            logp=[logp[:n] for logp, n in zip(sampled.logp, said, strict=True)],
            truncated=[cut and n is None for cut, n in zip(sampled.truncated, said, strict=True)],
        )

    def _asked(self, number: int, problem: Problem) -> Asked:
        return number, problem, encode_prompt(self.tokenizer, messages_for(problem, self.config.system_prompt))

    # Batches that wait to be trained on are part of a run's state: the policy that sampled them is gone.

    def to_state(self, rollouts: list[Rollout]) -> list[dict[str, Any]]:
        """Of all processes, as JSON: what cannot be made again."""
        return [{"number": it.number, **asdict(it.sampled)} for it in gather(rollouts, self.accelerator)]

    def from_state(self, state: list[dict[str, Any]]) -> list[Rollout]:
        asked, sampled = [], []
        for saved in share(state, self.accelerator):
            (problem,) = self.task.train_problems(seed=self.config.seed, first=saved["number"], count=1)
            asked.append(self._asked(saved["number"], problem))
            sampled.append(Sampled(**{key: saved[key] for key in ("tokens", "logp", "truncated")}))
        return self.judged(asked, sampled)
