"""A batch of rollouts: prompts, their completions, and what was made of them."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.rewards import judge, weigh
from rlhf.chat import decode, encode_prompt, end_tokens
from rlhf.evaluation import messages_for
from rlhf.groups import Group
from rlhf.sampling import sample
from rlhf.tasks import Problem, Task, Verdict


@dataclass(frozen=True)
class Rollouts:
    """Of b prompts with g completions each, n = b * g; those of one process."""

    problems: list[Problem]
    groups: list[Group]
    texts: list[list[str]]
    verdicts: list[list[Verdict]]
    reward: Float[Tensor, "b g"]
    truncated: Bool[Tensor, " n"]
    logp_sampler: Float[Tensor, "n t"]  # what the sampler said; zero behind the end
    mask: Bool[Tensor, "n t"]

    def samples(self, count: int = 4) -> list[dict[str, Any]]:
        """The first completion of some prompts, as samples.jsonl wants them."""
        return [
            {
                "prompt": problem.question,
                "completion": texts[0],
                "answer": problem.answer,
                "reward": asdict(verdicts[0]),
                "total": float(reward[0]),
            }
            for problem, texts, verdicts, reward in zip(
                self.problems[:count], self.texts, self.verdicts, self.reward, strict=False
            )
        ]

    def take(self, prompts: range) -> "Rollouts":
        """The part with these prompts, padded as the whole is."""
        g = self.reward.shape[1]
        rows = slice(prompts.start * g, prompts.stop * g)
        prompt_slice = slice(prompts.start, prompts.stop)
        return replace(
            self,
            problems=self.problems[prompt_slice],
            groups=self.groups[prompt_slice],
            texts=self.texts[prompt_slice],
            verdicts=self.verdicts[prompt_slice],
            reward=self.reward[prompt_slice],
            truncated=self.truncated[rows],
            logp_sampler=self.logp_sampler[rows],
            mask=self.mask[rows],
        )


def collect(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    problems: list[tuple[int, Problem]],
    accelerator: Accelerator,
    config: PolicyGradientConfig,
) -> Rollouts:
    """Sample and judge. `problems` are numbered through the run: the number is the key of their random numbers, so the
    same completions come out however the prompts are spread over processes."""
    prompts = [encode_prompt(tokenizer, messages_for(problem, config.system_prompt)) for _, problem in problems]
    with accelerator.autocast():
        sampled = sample(
            model,
            prompts,
            completions=config.group_size,
            max_new_tokens=config.max_new_tokens,
            end_tokens=end_tokens(tokenizer),
            keys=[(config.seed, number) for number, _ in problems],
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            batch=config.sampling_batch,
        )
    texts = [[decode(tokenizer, tokens) for tokens in one.tokens] for one in sampled]
    verdicts = judge(task, [problem for _, problem in problems], texts)
    reward = [[weigh(verdict, config.reward_weights) for verdict in row] for row in verdicts]
    logp = pad_sequence([torch.tensor(logp) for one in sampled for logp in one.logp], batch_first=True)
    length = torch.tensor([len(tokens) for one in sampled for tokens in one.tokens])
    return Rollouts(
        problems=[problem for _, problem in problems],
        groups=[Group(prompt, one.tokens) for prompt, one in zip(prompts, sampled, strict=True)],
        texts=texts,
        verdicts=verdicts,
        reward=torch.tensor(reward),
        truncated=torch.tensor([cut for one in sampled for cut in one.truncated]),
        logp_sampler=logp.to(accelerator.device),
        mask=(torch.arange(logp.shape[1]) < length[:, None]).to(accelerator.device),
    )
