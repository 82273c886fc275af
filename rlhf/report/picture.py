"""Held-out curves as a PNG, for a README."""

from collections.abc import Sequence
from pathlib import Path

from rlhf.errors import UserError
from rlhf.report import charts
from rlhf.report.charts import Panel
from rlhf.report.comparison_page import band_in_words, group_rows
from rlhf.report.curves import held_out_rows, targets_of
from rlhf.report.over_seeds import Axis, read_groups


def write_png(runs: Sequence[Path], output: Path, label: str | Sequence[str] = (), *, by: Axis = "steps") -> Path:
    """Write the held-out curves of one or several runs as a picture for a README."""
    groups = read_groups(runs, label, by=by)
    targets = targets_of(run for group in groups for run in group.runs)
    if not targets:
        raise UserError("no held-out evaluation to draw: none of the runs has a readable eval.jsonl")
    targets = [t for t in targets if t.metric == targets[0].metric][:3]
    metric = targets[0].metric
    single = len(groups) == 1 and len(groups[0].runs) == 1
    if single:  # one run: its data sets are the lines
        labels = [t.data or metric for t in targets]
        panels = [Panel("", metric, held_out_rows(groups[0].runs[0], targets), labels)]
        title, about = groups[0].runs[0].title, "95 % interval over the held-out problems"
    else:
        labels = [group.label for group in groups]
        panels = [Panel(t.data if len(targets) > 1 else "", metric, group_rows(groups, t), labels) for t in targets]
        title = f"Held-out {metric}" + (f" on {targets[0].data}" if len(targets) == 1 and targets[0].data else "")
        about = band_in_words(groups)
    along = "training step" if by == "steps" else by.replace("_", " ")
    figure = charts.held_out_figure(panels, title=title, subtitle=about, along=along)
    return charts.render_png(figure, Path(output))
