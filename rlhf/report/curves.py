"""Curves of a run as rows of a chart and as words, and the order of the panels. Both pages use these."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rlhf.report import html, numbers
from rlhf.report.html import Html
from rlhf.report.runs import Point, Run, Target, is_number
from rlhf.report.still import documented, stands_still, still_in_words
from rlhf.statistics import Estimate

POINTS_A_CHART = 180

# The order of the panels. Other prefixes come between the two, in the order in which they were logged.
FIRST_PREFIXES = ("", "loss", "reward", "groups", "policy", "length")
LAST_PREFIXES = ("sampler", "optim", "speed", "time", "memory")


def targets_of(runs: Iterable[Run]) -> list[Target]:
    """All held-out measurements, in the order in which they were recorded."""
    return list({target: None for run in runs for target in run.evaluation})


def held_out_rows(run: Run, targets: Sequence[Target]) -> list[dict[str, Any]]:
    """Held-out curves of one run as rows for `charts.curves`, one line a data set."""
    return [
        row
        for t in targets
        for row in curve_rows(run.evaluation[t], t.data or t.metric, lambda e: f"{e.n:,} problems" if e.n else None)
    ]


def curve_rows(points: Iterable[Point], label: str, origin: Callable[[Estimate], str | None]) -> list[dict[str, Any]]:
    """Points as rows for `charts.curves`."""
    rows = []
    for step, e in points:
        row = {"g": label, "s": step, "v": short(e.value), "l": short(e.low), "h": short(e.high), "n": origin(e)}
        rows.append({k: v for k, v in row.items() if v is not None})
    return rows


def short(value: float | None) -> float | None:
    """Five significant digits: more than a chart can show, and the page stays small."""
    return None if value is None or not is_number(value) else float(f"{value:.5g}")


def curve_in_words(name: str, points: Sequence[Point]) -> str:
    """`in_words` of a held-out curve."""
    return in_words(name, [p.step for p in points], [p.estimate.value for p in points])


def in_words(name: str, steps: Sequence[float], values: Sequence[float]) -> str:
    """A curve as a sentence for screen readers."""
    first, last, low, high = map(numbers.number, (values[0], values[-1], min(values), max(values)))
    return f"{name}: {first} at step {steps[0]:.0f}, {last} at step {steps[-1]:.0f}, lowest {low}, highest {high}"


def headline_of(run: Run) -> list[str]:
    """The metrics that the run names as its headline, as far as they were measured."""
    wanted = run.provenance.get("headline")
    measured = run.metric_names()
    return [name for name in wanted if name in measured] if isinstance(wanted, list) else []


def _by_prefix(names: Iterable[str]) -> dict[str, list[str]]:
    """Metrics by the word before their slash: learning first, cost last."""
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(name.split("/")[0] if "/" in name else "", []).append(name)
    between = [p for p in grouped if p not in (*FIRST_PREFIXES, *LAST_PREFIXES)]
    return {p: grouped[p] for p in (*FIRST_PREFIXES, *between, *LAST_PREFIXES) if p in grouped}


def panels(runs: Sequence[Run], draw: Callable[[str], Html]) -> Html:
    """The headline metrics, then the rest by prefix, as small multiples; those that never moved are one line."""
    names = list({name: None for run in runs for name in run.metric_names()})
    first = list({name: None for run in runs for name in headline_of(run)})
    still = [name for name in names if name not in first and stands_still(runs, name)]
    blocks = [html.block("Headline", [draw(name) for name in first])]
    for prefix, members in _by_prefix(name for name in names if name not in {*first, *still}).items():
        title = prefix.capitalize() or ("Loss" if all("loss" in name for name in members) else "Overall")
        blocks.append(html.block(title, [draw(name) for name in members]))
    drawn = html.blocks(blocks)
    return html.together([drawn, html.notes(still_in_words(runs, still))]) if drawn or still else Html()


def described(runs: Iterable[Run], name: str) -> tuple[str, str]:
    """Unit and description of a metric, as the run documents it."""
    about = documented(runs, name)
    return str(about.get("unit") or ""), str(about.get("description") or "")
