"""A process that samples with the `rlhf` it finds, for `benchmarks.sampler`: that may be another checkout's."""

import argparse
import importlib
import json
import sys
import time

import torch
from transformers.utils import logging

from rlhf.groups import Group
from rlhf.logprobs import Scorer, score
from rlhf.models.policy import load_policy
from rlhf.sampling import sample, shares_prompts

FEW = 2  # new tokens of the call whose time is subtracted
GROUP = 8  # completions of a prompt


def main() -> None:
    """Answer each line on standard input, [precision, sequences], with a line of measurements."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    for name in ("--threads", "--new_tokens", "--prompt_tokens"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    _tune_cpu()
    model = load_policy(options.model)
    shares_prompts(model)  # probes the model once, which is no part of sampling
    looked_up = (
        0 if model.config.tie_word_embeddings else sum(p.numel() for p in model.get_input_embeddings().parameters())
    )
    weights = sum(p.numel() for p in model.parameters()) - looked_up
    print(json.dumps({"weights": weights}), flush=True)
    for line in sys.stdin:
        precision, sequences = json.loads(line)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            print(json.dumps(_measure(model, sequences, options)), flush=True)


def _tune_cpu() -> None:
    """`tune_cpu`, which checkouts from before 0.3.0 have beside the folders."""
    cpu = importlib.import_module("rlhf.cpu")
    if hasattr(cpu, "__path__"):  # a folder
        cpu = importlib.import_module("rlhf.cpu.tune")
    cpu.tune_cpu()


def _measure(model, sequences: int, options: argparse.Namespace) -> dict[str, float]:
    now = time.process_time if options.threads == 1 else time.perf_counter
    vocabulary = model.config.vocab_size
    prompts = [
        [(7 * i + 31 * number + 100) % vocabulary for i in range(options.prompt_tokens)]
        for number in range(sequences // GROUP)
    ]

    def draw(new_tokens: int):
        keys = [(0, number) for number in range(len(prompts))]
        start = now()
        sampled = sample(
            model, prompts, completions=GROUP, max_new_tokens=new_tokens, end_tokens=[], keys=keys, batch=sequences
        )
        return now() - start, sampled

    few, _ = draw(FEW)
    many, sampled = draw(options.new_tokens)
    scores = score(Scorer(model), [Group(prompts[0], sampled[0].tokens)], token_budget=4096, device=torch.device("cpu"))
    gap = scores.logp - torch.tensor(sampled[0].logp)
    return {
        "step": (many - few) / (options.new_tokens - FEW),
        "tokens_per_s": sequences * options.new_tokens / many,
        "gap": float(gap.abs().mean()),
    }


if __name__ == "__main__":
    main()
