"""Compare losses on one task: uv run python -m direct_alignment.compare --losses all --seeds 3

Every loss with its own config (its published settings, where it has none) and the same budget: pairs, steps, model,
held-out problems. Writes one page, two pictures and the tables. After an interruption the same command continues.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from direct_alignment.config import LOSS_NAMES, DirectAlignmentConfig, read
from rlhf.config.command import Command
from rlhf.errors import run_main

# Settings that must be equal for a fair comparison.
BUDGET = ("model_name", "task", "task_config", "data", "max_samples", "max_steps", "batch_size", "max_length")


def read_one(name: str, seed: int, shared: list[str]) -> tuple[list[str], Command[DirectAlignmentConfig]]:
    """The arguments of one run and its resolved command."""
    arguments = ["--loss", name, "--seed", str(seed), *shared]
    return arguments, read(arguments)


def add_displacement(paths: Sequence[Path], folder: Path) -> tuple[str, list[Path]]:
    """The table of displacement, and its picture."""
    return displacement_table(paths), [draw_displacement(paths, folder / "displacement.png")]


def main() -> int | None:
    from rlhf.run.compare import compare

    return compare(
        "python -m direct_alignment.compare",
        what="losses",
        key="loss",
        names=LOSS_NAMES,
        folder="runs/direct_alignment",
        example="--task spell_backward --max_steps 60",
        budget=BUDGET,
        read=read_one,
        metrics=("accuracy", "reward", "reward_accuracy"),
        add=add_displacement,
    )


def displacement_table(paths: Sequence[Path]) -> str:
    """Markdown: log-probabilities of chosen and rejected, KL to the start and length of samples, before and after."""
    from rlhf.report.over_seeds import group_runs
    from rlhf.report.runs import Target, read_run
    from rlhf.statistics import over_seeds_text, t_interval

    shown = {
        "chosen logp, nats": Target("chosen", "logp"),
        "rejected logp, nats": Target("rejected", "logp"),
        "KL to the start, nats": Target("samples", "kl"),
        "length, tokens": Target("samples", "length"),
    }
    lines = ["| loss | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for group in group_runs([read_run(path) for path in paths], ["loss"]):
        cells = [group.label]
        for target in shown.values():
            curves = [run.evaluation[target] for run in group.runs if target in run.evaluation]
            if not curves:
                cells.append("-")
                continue
            before, after = (t_interval([curve[end].estimate.value for curve in curves]) for end in (0, -1))
            cells.append(f"{before.value:.1f} -> {over_seeds_text(after, digits=1)}")
        lines.append("| " + " | ".join(cells) + " |")
    return "Held-out pairs, and completions sampled from the policy:\n\n" + "\n".join(lines) + "\n"


def draw_displacement(paths: Sequence[Path], output: Path) -> Path:
    """Held-out log-probabilities of the chosen and of the rejected completions, one line a loss."""
    from rlhf.report.charts import Panel, held_out_figure, render_png
    from rlhf.report.over_seeds import group_runs, held_out_over_seeds
    from rlhf.report.runs import Target, read_run

    groups = group_runs([read_run(path) for path in paths], ["loss"])
    panels = []
    for side in ("chosen", "rejected"):
        rows = [
            {"g": group.label, "s": step, "v": it.value, "l": it.low, "h": it.high}
            for group in groups
            for step, it in held_out_over_seeds(group, Target(side, "logp"))
        ]
        rows = [{key: value for key, value in row.items() if value is not None} for row in rows]
        panels.append(Panel(side, "log-probability, nats", rows, [group.label for group in groups]))
    about = "Mean over held-out pairs. Where the chosen fall too, probability moves to other completions"
    return render_png(held_out_figure(panels, title="Displacement", subtitle=about), output)


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
