"""The whole loop by one command: uv run python -m pipeline.run --seeds 1

    start policy -> pairs of its own completions, labelled by the verifier with noise -> preference reward models
        -> each optimizer against a reward model -> gold and proxy reward against sqrt(KL(policy || start))

The gold reward is the verifier, which no optimizer sees: what is gained on the proxy and lost on the gold is
over-optimization (RLHF Book, chapter 14; Gao et al., 2022, arXiv 2210.10760). The runs are those of the families'
own commands, see `stages.py`; how they are measured is in `measure.py`. Killed and started again, the command goes on.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import ChainConfig, read_config
from rlhf.config.options import Parser, number, whole
from rlhf.config.paths import refuse_strangers, user_path
from rlhf.errors import run_main

if TYPE_CHECKING:
    from rlhf.run.sweep import Planned

MEASURE = "measure"
TABLE = b"|  | gold: start |"  # how chain.md begins
STAGES = ("preferences", "reward_models", "judged", "optimizers", MEASURE)


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m pipeline.run",
        description="From a policy over preferences and a reward model to over-optimization, measured.",
    )
    add = parser.add_argument
    add("--config", default="laptop", help="YAML file, or the name of one in pipeline/configs (default: laptop)")
    add("--seeds", type=whole(1, 50), default=1, metavar="N", help="how many seeds (default: 1)")
    add("--first_seed", type=whole(0, 50), default=0, metavar="N", help="the first of them (default: 0)")
    add("--optimizers", default="all", metavar="A,B", help="lines of the picture, by name (default: all)")
    add("--stages", default="all", metavar="A,B", help=f"of {', '.join(STAGES)} (default: all)")
    add("--label_noise", type=number(0, 1), help="share of pairs labelled otherwise (default: the config's)")
    add("--output_dir", type=user_path, default=Path("runs/chain"), help="for runs and results (default: runs/chain)")
    add("--at_once", type=whole(1, 64), default=2, metavar="N", help="runs at a time, a thread each (default: 2)")
    add("--plan", action="store_true", help="say which runs there would be, then stop")
    add("--quiet", action="store_true", help="print the results alone")
    add("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args(arguments)


def chain_of(options: argparse.Namespace) -> ChainConfig:
    """The config with what the command line changes: lines that are left out, and the noise of the labels."""
    from rlhf.run.sweep import choose

    config = read_config(options.config)
    lines = choose("--optimizers", options.optimizers, list(config.optimizers), seeds=options.seeds)
    update = {"optimizers": {line: config.optimizers[line] for line in lines}}
    if options.label_noise is not None:
        update["preferences"] = config.preferences.model_copy(update={"label_noise": options.label_noise})
    return config.model_copy(update=update)


def run(options: argparse.Namespace) -> int:
    from pipeline.stages import Chain
    from rlhf.models.names import find_policy
    from rlhf.run.sweep import choose, make_all, refuse_stale
    from rlhf.tasks.names import refuse_unknown_task

    config = chain_of(options)
    asked = choose("--stages", options.stages, STAGES, seeds=options.seeds)
    refuse_unknown_task(config.task, config.task_config)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    chains = [Chain(config, seed, options.output_dir / f"seed{seed}") for seed in seeds]
    stages = {stage: [made for chain in chains for made in chain.stage(stage)] for stage in STAGES if stage != MEASURE}
    for planned in stages.values():
        for one in planned:
            refuse_stale(one)
    if options.plan:
        print(plan(stages))
        return 0
    find_policy(config.model_name)
    refuse_strangers(options.output_dir / "chain.md", TABLE, "table of this project")
    for chain in chains:
        chain.folder.mkdir(parents=True, exist_ok=True)
    for stage, planned in stages.items():
        if stage in asked:
            make_all(planned, at_once=options.at_once, quiet=options.quiet)
    if MEASURE in asked:
        from pipeline.results import write_results

        print(write_results(chains, options.output_dir, at_once=options.at_once, quiet=options.quiet))
    return 0


def plan(stages: Mapping[str, "Sequence[Planned]"]) -> str:
    """The runs of each stage, one a line."""
    lines = []
    for stage, planned in stages.items():
        lines.append(f"{stage}: {len(planned)} runs, {sum(one.done for one in planned)} of them there")
        lines += [f"    {one.label:<32} {one.path}" for one in planned]
    return "\n".join(lines)


def main() -> int:
    return run(read_options(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
