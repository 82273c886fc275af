"""One step of GRPO, ours beside TRL's: uv run --group peers python -m benchmarks.grpo_step

The work, the same on both sides: sample G completions of each of B prompts at temperature 1 (no top-k, no top-p),
reward them, z-score the rewards within each group, one forward and backward of the clipped loss (mean over tokens, then
over sequences), clip the gradient norm at 1, one step of fused AdamW. No reference model (beta 0). On the CPU.

What makes it a fair race:
- Each side has a process of its own, and they take turns (`race.py`). The first step of each warms up and does not
  count.
- Both train the same model object from `load_policy` (fp32 weights, SDPA attention), on the same chats, and
  every completion has the same length on both sides. `--lengths natural` (default) draws lengths up to max_new_tokens,
  mean near half of that; the end token is suppressed before that length and forced at it: in TRL by a LogitsProcessor,
  in ours by a function that chooses the tokens (the prompts' order may give a group's lengths to another group; the
  total is the same). `--lengths fixed` suppresses it throughout. Tokens sampled and read are counted and compared;
  a difference is an error.
- TRL gets the fp32 matmul kernels, the allocator and the watch over idle threads that we choose (rlhf/cpu/), though by
  itself it does not: `--trl_cpu default` measures it as it comes. On the idle machine of a race its threads then spin
  between operations as long as with PyTorch alone.
- Rewards come from the same verifier, plus a number in [0, 1) from a hash of the text: an untrained model is always
  wrong, and advantages of 0 would make the backward pass run on zeros.
- The processor time that other programs used during a step is measured and printed. With `--patience MINUTES`, each
  step waits until they are idle, and a round of steps that was disturbed nevertheless is repeated.
- Each side computes its usual metrics; nothing is logged, saved or evaluated.

TRL's settings, where they are not its defaults: gradient_checkpointing off (it is on by default and costs a second
forward pass), one micro-batch of all B * G completions (`--trl_micro_batch` tries others), beta 0 and loss_type `grpo`,
no reports, no saves, no progress bar. In bf16, `bf16=True`: autocast over fp32 weights, as ours. vLLM would need a GPU.
TRL's own choices are left as they are: on a CPU it projects the prompt's positions to the vocabulary too, and it does
so in bf16 under autocast, where ours always does it in fp32.

generation: the call that turns prompts into completions. train: forward, loss, metrics and backward. rest: everything
else between two steps (data, rewards, advantages, clipping, AdamW). Numbers are medians over the rounds, with the
range; a quotient is taken within each round, whose two steps do the same work.

Fractions of the roofline count the computation that is unavoidable, the same for both sides: 2 FLOP (generation) or 6
(train) for each parameter and token; a prompt once for its whole group, and the vocabulary projection for completion
tokens alone. Attention is left out (about 3 % at these lengths).
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.grpo_ours import run_ours
from benchmarks.grpo_trl import run_trl
from benchmarks.grpo_work import Options, Step
from benchmarks.race import (
    QUIET,
    Side,
    make_parser,
    parse,
    print_table,
    spread,
    start,
    take_turns,
    wait_until_quiet,
    write_json,
)
from benchmarks.roofline import Roofline, measure

TARGETS = {"ours": run_ours, "trl": run_trl}
LINES = (
    ("step, s", "seconds", ".2f"),
    ("  generation, s", "generation", ".2f"),
    ("  log-probs + backward, s", "train", ".2f"),
    ("  rest, s", "rest", ".2f"),
    ("cores used by others", "others", ".2f"),
    ("completion tokens / s", "tokens_per_s", ".1f"),
    ("  in generation alone", "generated_per_s", ".1f"),
    ("peak memory, GB", "memory_gb", ".2f"),
    ("of the matmul rate: step", "step_of_matmul", ".1%"),
    ("  generation", "generation_of_matmul", ".1%"),
    ("  log-probs + backward", "train_of_matmul", ".1%"),
    ("of the read rate: generation", "generation_of_read", ".1%"),
)


def run_roofline(turn: Connection) -> None:
    turn.send(measure())


def race(options: Options, names: Sequence[str]) -> dict[str, Any]:
    """Run it all; returns the record that `--json` writes."""
    deadline = time.monotonic() + 60 * options.patience
    wait_until_quiet(deadline)
    measuring = Side(run_roofline)
    roofline = measuring.receive()
    measuring.process.join()
    sides, parameters = start({name: TARGETS[name] for name in names}, options)
    rounds: list[dict[str, Step]] = []
    for number in range(options.rounds):
        made = take_turns(sides, number, f"step {number}{'' if number else ' (warm-up)'}", deadline=deadline)
        counts = {(step.prompt_tokens, step.completion_tokens, step.longest) for step in made.values()}
        if len(counts) > 1:
            sys.exit(f"the sides did different work (prompt tokens, completion tokens, longest): {counts}")
        undisturbed = all(step.cost.others < QUIET for step in made.values())
        if number and (undisturbed or not options.patience):
            rounds.append(made)
        if len(rounds) == options.steps or (rounds and options.patience and time.monotonic() > deadline):
            break
    if not rounds:
        sys.exit("every round was disturbed by other programs: more --patience, or none to measure all the same")
    for side in sides.values():
        side.end()
    return record(options, roofline, parameters[names[0]], rounds)


def record(
    options: Options, roofline: Roofline, parameters: dict[str, int], rounds: Sequence[dict[str, Step]]
) -> dict[str, Any]:
    """All measurements, their spreads, and quotients of the two steps of each round, which did the same work."""
    measured = {
        name: [measurements(made[name], parameters, roofline, options.precision) for made in rounds]
        for name in rounds[0]
    }
    results = {name: {key: spread([row[key] for row in rows]) for key in rows[0]} for name, rows in measured.items()}
    quotients = {}
    if len(measured) == 2:
        pairs = list(zip(*measured.values(), strict=True))
        for key in ("seconds", "generation", "train", "rest", "memory_gb"):
            quotients[key] = spread([theirs[key] / ours[key] for ours, theirs in pairs])
    return {
        "options": asdict(options),
        "roofline": asdict(roofline),
        "parameters": parameters,
        "results": results,
        "theirs / ours": quotients,
        "rounds": measured,
    }


def measurements(step: Step, parameters: dict[str, int], roofline: Roofline, precision: str) -> dict[str, float]:
    """Times, rates and fractions of the roofline of one step."""
    rate = {"fp32": roofline.fp32, "bf16": roofline.bf16}[precision] * 1e9
    weight_bytes = sum(parameters.values()) * {"fp32": 4, "bf16": 2}[precision]
    tokens = step.prompt_tokens + step.completion_tokens
    forward = 2.0 * (parameters["backbone"] * tokens + parameters["head"] * step.completion_tokens)
    return {
        **asdict(step.cost),
        "generation": step.generation,
        "train": step.train,
        "rest": step.rest,
        "prompt_tokens": step.prompt_tokens,
        "completion_tokens": step.completion_tokens,
        "longest": step.longest,
        "tokens_per_s": step.completion_tokens / step.cost.seconds,
        "generated_per_s": step.completion_tokens / step.generation,
        "step_of_matmul": 4 * forward / step.cost.seconds / rate,
        "generation_of_matmul": forward / step.generation / rate,
        "train_of_matmul": 3 * forward / step.train / rate,
        # Every weight is read once for each token step of decoding.
        "generation_of_read": step.longest * weight_bytes / (roofline.read * 1e9) / step.generation,
    }


def show(record: dict[str, Any]) -> None:
    options = record["options"]
    roofline = record["roofline"]
    results = record["results"]
    parameters = sum(record["parameters"].values()) / 1e6
    first = next(iter(results.values()))
    print(
        f"\nGRPO step, {options['model']} ({parameters:.1f}M), {options['precision']}: {options['prompts']} prompts of "
        f"{first['prompt_tokens']['median'] / options['prompts']:.0f} tokens x {options['rollouts']} completions, "
        f"{first['completion_tokens']['median']:.0f} tokens in all, lengths {options['lengths']}, "
        f"{len(next(iter(record['rounds'].values())))} timed rounds"
    )
    print(
        f"machine: {roofline['threads']} threads, fp32 {roofline['fp32']:.0f} GFLOP/s, bf16 {roofline['bf16']:.0f} "
        f"GFLOP/s, read {roofline['read']:.1f} GB/s\n"
    )
    print_table(results, record["theirs / ours"], LINES)


def main() -> None:
    parser = make_parser("python -m benchmarks.grpo_step", (__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--prompts", type=int, default=4)
    add("--rollouts", type=int, default=8, help="completions of each prompt")
    add("--max_new_tokens", type=int, default=64)
    add("--prompt_tokens", type=int, default=110)
    add("--lengths", choices=("natural", "fixed"), default="natural", help="up to max_new_tokens, or all that long")
    add("--steps", type=int, default=3, help="timed steps, after one that warms up")
    add("--token_budget", type=int, default=8192, help="tokens of our micro-batches, as in a run's config")
    add("--trl_micro_batch", type=int, default=0, help="per_device_train_batch_size of TRL; 0 is prompts * rollouts")
    options, names, path = parse(parser, Options)
    measured = race(options, names)
    show(measured)
    write_json(path, measured)


if __name__ == "__main__":
    main()
