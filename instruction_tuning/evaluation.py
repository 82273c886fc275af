"""Held-out evaluation of instruction tuning: the loss of conversations, and accuracy on the problems of tasks."""

from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from instruction_tuning.config import InstructionTuningConfig
from instruction_tuning.data import Source
from rlhf.distributed import all_reduce_sum, local_shard
from rlhf.evaluate.task import evaluate_task
from rlhf.groups import Layout
from rlhf.logprobs import Scorer, score
from rlhf.sampling import refuse_long_prompts
from rlhf.tasks.encoding import encode_problem
from rlhf.tasks.problem import Problem
from rlhf.tasks.procedural import ProceduralTask
from rlhf.tensors import masked_sum


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Source,
    config: InstructionTuningConfig,
    accelerator: Accelerator,
    layout: Layout,
) -> list[dict[str, Any]]:
    """eval.jsonl records less their step; none where nothing is held out."""
    if not data.held_out:
        return []
    records = [held_out_loss(model, data, accelerator, layout)]
    for task in data.tasks:
        records += [
            evaluate_task(
                model,
                tokenizer,
                task,
                _problems(task, data, config),
                accelerator,
                max_new_tokens=config.eval_max_new_tokens,
                greedy=greedy,
            )
            for greedy in (False, True)
        ]
    return records


def held_out_loss(model: PreTrainedModel, data: Source, accelerator: Accelerator, layout: Layout) -> dict[str, Any]:
    """Mean negative log-likelihood of the counted tokens of all held-out conversations, nats per token."""
    groups = local_shard(list(data.held_out), accelerator)
    with accelerator.autocast():
        scores = score(Scorer(model), groups, device=accelerator.device, **layout)
    logp = float(masked_sum(scores.logp, scores.mask).sum())
    logp, tokens = all_reduce_sum([logp, int(scores.mask.sum())], accelerator)
    return {"data": "held-out", "metric": "loss", "value": -logp / tokens, "n": int(tokens)}


def refuse_long_problems(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: Source, config: InstructionTuningConfig
) -> None:
    """See that the model can read the tasks' held-out problems with an answer of `eval_max_new_tokens`.

    Raises:
        UserError: it cannot.
    """
    for task in data.tasks if data.held_out else ():
        prompts = [encode_problem(tokenizer, it, None) for it in _problems(task, data, config)]
        refuse_long_prompts(model, prompts, config.eval_max_new_tokens, key="eval_max_new_tokens")


def _problems(task: ProceduralTask, data: Source, config: InstructionTuningConfig) -> list[Problem]:
    return task.held_out_problems(config.data.held_out // len(data.tasks))
