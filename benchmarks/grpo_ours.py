"""Our side of the race of GRPO steps."""

from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.grpo_work import (
    CLIP,
    LR,
    MAX_GRAD_NORM,
    TASK,
    Meter,
    Options,
    Step,
    describe,
    jitter,
    make_problems,
    wanted_lengths,
)
from benchmarks.race import forget_peak_memory, load
from rlhf.sampling import SoftmaxChooser, sample, shares_prompts


def lengthened_task(problems: list):
    """The task with these problems for its training stream."""
    from rlhf.tasks.procedural import ProceduralTask

    task = ProceduralTask(TASK, answer_in="text")
    task.train_problems = lambda *, seed, first, count: problems[first : first + count]
    return task


class ForcedChooser:
    """Samples tokens, but ends each completion at its given length; an earlier end token becomes another token."""

    def __init__(self, *, ends: list[int], lengths: Tensor):
        self.choose = SoftmaxChooser(temperature=1.0, top_k=0, top_p=1.0)
        self.lengths = lengths
        self.step = 0
        self.rows = torch.arange(len(lengths))  # the completion in each row of the batch
        self.ends = torch.tensor(ends)
        self.end = ends[0]
        self.instead = next(token for token in range(len(ends) + 1) if token not in ends)

    def __call__(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        if len(logits) < len(self.rows):  # the sampler has dropped completions that ended
            self.rows = self.rows[self.lengths[self.rows] > self.step]
        self.step += 1
        token, logp = self.choose(logits, uniform)
        token = token.masked_fill(torch.isin(token, self.ends), self.instead)
        return token.masked_fill(self.lengths[self.rows] == self.step, self.end), logp


def make_recipe(options: Options):
    from policy_gradients.config import PolicyGradientConfig
    from policy_gradients.defaults import resolve

    config = PolicyGradientConfig(
        task=TASK,
        answer_in="text",
        prompts_per_step=options.prompts,
        group_size=options.rollouts,
        max_new_tokens=options.max_new_tokens,
        sampling_batch=options.prompts * options.rollouts,
        token_budget=options.token_budget,
    )
    return resolve(config.model_copy(update={"clip_low": CLIP, "clip_high": CLIP}))


def run_ours(turn: Connection, options: Options) -> None:
    """The loop of policy_gradients/train.py, less logging and saving."""
    from accelerate.utils import set_seed

    from policy_gradients import sampler as sampler_module
    from policy_gradients.config import RewardWeights
    from policy_gradients.diagnostics import UpdateSums, batch_metrics
    from policy_gradients.rewards import RewardFunction
    from rlhf.aggregate import Totals
    from rlhf.distributed import make_accelerator
    from rlhf.groups import micro_batches
    from rlhf.logprobs import Scorer
    from rlhf.optimizer import check_finite, make_optimizer, optimizer_step, sync_only_last
    from rlhf.text.chat import end_tokens

    b = options.prompts
    g = options.rollouts
    meter = Meter()
    recipe = make_recipe(options)
    model, tokenizer = load(options.model, seed=options.seed)
    task = lengthened_task(make_problems(tokenizer, options))
    accelerator = make_accelerator(device="cpu", precision=options.precision, trackers=[], run_path=Path())
    set_seed(options.seed)
    optimizer = make_optimizer(model, lr=LR, betas=(0.9, 0.999), weight_decay=0.0)
    scorer, optimizer = accelerator.prepare(Scorer(model), optimizer)
    reward_function = RewardFunction(task, RewardWeights(), {})
    sampler = sampler_module.Sampler(model, tokenizer, task, reward_function, accelerator, recipe)

    def one_step(number: int) -> Step:
        meter.clear()
        rollouts, _ = sampler.draw(number * b)
        batch = sampler.batch(rollouts)
        batch_metrics(batch, accelerator)
        reward = batch.reward + batch.reward.new_tensor([[jitter(text) for text in it.texts] for it in rollouts])
        adv = recipe.advantage(reward).reshape(-1, 1)
        sums = UpdateSums()
        assert recipe.ratio is not None
        with meter("train"):
            totals = Totals(b * g, int(batch.mask.sum()), options.max_new_tokens)
            batches = micro_batches(batch.groups, token_budget=recipe.config.token_budget)
            for i, rows in enumerate(batches):
                n, t = rows.index, rows.mask.shape[1]
                with sync_only_last(accelerator, scorer, last=i == len(batches) - 1):
                    scores = scorer(rows, 1.0)
                    ratio = recipe.ratio(scores.logp, scores.logp.detach(), scores.mask)
                    loss = recipe.surrogate(scores.logp, ratio, adv[n], scores.mask)
                    loss = recipe.aggregate(loss, scores.mask, totals)
                    check_finite(loss, Path("/tmp"), rows=rows)
                    accelerator.backward(loss)
                logp_sampler = batch.logp_sampler[n, :t]
                sums.add(scores, gap=scores.logp.detach() - logp_sampler, ratio=ratio, adv=adv[n], kl=None)
        optimizer_step(accelerator, model, optimizer, lr=LR, max_grad_norm=MAX_GRAD_NORM)
        meter.prompts = [group.prompt for group in batch.groups]
        meter.completions = [tokens for group in batch.groups for tokens in group.completions]
        return meter.step(generation=meter.seconds["generation"], train=meter.seconds["train"])

    ends = end_tokens(tokenizer)
    lengths = wanted_lengths(options)

    def sample_to_length(*args, **kwargs):
        with meter("generation"):
            return sample(*args, **kwargs, choose=ForcedChooser(ends=ends, lengths=next(lengths)))

    shares_prompts(model)  # probes the model once, which is no part of a step
    with patch.object(sampler_module, "sample", sample_to_length):
        forget_peak_memory()
        turn.send(describe(model))
        while (number := turn.recv()) is not None:
            turn.send(one_step(number))
