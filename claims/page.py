"""The page of a claim, in Markdown: what is claimed, what differs, what was measured, what was found, the verdict."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from claims.claim import Arm, Claim, File, Measure, RunOf, SeedPlus
from claims.results import Results
from claims.verdicts import Comparison, over_seeds, overall
from claims.words import between, claimed, compared, number, with_interval
from rlhf.report.numbers import duration

HEAD = (
    "<!-- A claim of this project; written by python -m claims. -->\n"  # by which the page is known when it is replaced
)


def page(name: str, claim: Claim, results: Results, *, picture: str) -> str:
    """The page as Markdown.

    Args:
        picture: where it is, seen from the page.
    """
    comparisons, beside = results.comparisons(claim), results.beside(claim)
    parts = [
        f"{HEAD}# {claim.sentence}",
        f"The claim is that of {claim.paper.text}.",
        f"**Verdict: {overall(comparisons)}.** {_in_short(len(results.seeds))}",
        f"![{claim.sentence}]({picture})",
        f"## What differs\n\n{claim.setting}",
        _arms(claim),
        f"## What is measured\n\nDecided before the runs:{_measures(claim)}",
        f"## What was found\n\n{_values(claim, results)}",
        _comparisons(comparisons, column="claimed"),
        "What else these arms were expected to show; it does not count for the verdict:" if beside else "",
        _comparisons(beside, column="expected") if beside else "",
        claim.text.strip(),
        f"## Again\n\n    {command(name, claim, results)}",
        _origin(claim, results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def command(name: str, claim: Claim, results: Results) -> str:
    seeds = "" if len(results.seeds) == claim.seeds else f" --seeds {len(results.seeds)}"
    return f"uv run python -m claims {name}{seeds}"


def _origin(claim: Claim, results: Results) -> str:
    """Of which seeds, code and machine the figures are."""
    seeds, commits = (", ".join(map(str, of)) for of in (results.seeds, results.commits))
    what = "computing" if claim.compute else "training"
    return (
        f"Seeds {seeds}; commit {commits}; {results.processor}; {duration(results.seconds)} of {what} in all, one "
        "thread each. How a verdict is found, and the other claims: [claims](../claims.md)."
    )


def _in_short(seeds: int) -> str:
    if seeds == 1:
        return "One seed says nothing about others, so there is no interval."
    return f"Each comparison is a mean over {seeds} seeds, paired by seed, with its 95 % interval."


def _arms(claim: Claim) -> str:
    """What each arm does, and the settings that only it has; then what all have. A line is one arm."""
    lines = {arm.line or name: arm for name, arm in claim.arms.items()}
    rows = [[name, arm.what, _settings(arm)] for name, arm in (lines if claim.x else claim.arms).items()]
    settings = any(arm.settings for arm in claim.arms.values())
    head = ["arm", "what it does", "settings"]
    parts = [table(head if settings else head[:2], rows if settings else [row[:2] for row in rows])]
    if claim.before:
        made = [[name, _settings(one)] for name, one in claim.before.items()]
        parts.append("Made before, with each seed:\n\n" + table(["name", "command and settings"], made))
    if claim.command:
        shared = f" {_as_text(claim.shared)}" if claim.shared else ""
        parts.append(f"All are runs of `{claim.command}`, unless they name another, with `--profile laptop`{shared}.")
    return "\n\n".join(parts)


def _settings(one: Arm | File) -> str:
    parts = [f"`{one.command}`"] if one.command else []
    return " ".join([*parts, _as_text(one.settings)] if one.settings else parts) or "–"


def _as_text(settings: Mapping[str, Any]) -> str:
    return " ".join(f"`{key}: {json.dumps(value, default=_name).strip(chr(34))}`" for key, value in settings.items())


def _name(value: Any) -> Any:
    match value:
        case RunOf(name):
            return name
        case SeedPlus(number):
            return f"seed + {number}" if number else "seed"
    return str(value)


def _measures(claim: Claim) -> str:
    if len(claim.measures) == 1:
        (one,) = claim.measures
        return f" {one.name} ({one.unit}): {one.what}."
    return "\n\n" + "\n".join(f"- **{one.name}** ({one.unit}): {one.what}." for one in claim.measures)


def _values(claim: Claim, results: Results) -> str:
    """Each arm's mean and interval of each measure, and, of the first one, what each seed gave; or a table of lines."""
    first = claim.measures[0]
    tables = [_lines(claim, measure, results) for measure in claim.measures] if claim.x else []
    rows = []
    for arm in (name for name, arm in claim.arms.items() if arm.x is None):
        cells = [_mean(measure, results.values[measure.name][arm]) for measure in claim.measures]
        rows.append([arm, *cells, ", ".join(map(number, results.values[first.name][arm]))])
    of_seeds = "seeds" if len(claim.measures) == 1 else f"seeds ({first.name})"
    tables += [table(["arm", *(measure.name for measure in claim.measures), of_seeds], rows)] if rows else []
    return "\n\n".join(tables)


def _lines(claim: Claim, measure: Measure, results: Results) -> str:
    """A measure of arms that have an `x`: a row for each line, a column for each x."""
    at = sorted({arm.x for arm in claim.arms.values() if arm.x is not None})
    cells: dict[str, dict[float, str]] = {}
    for name, arm in claim.arms.items():
        if arm.x is not None:
            cells.setdefault(arm.line or name, {})[arm.x] = _mean(measure, results.values[measure.name][name])
    rows = [[line, *(of_x.get(x, "–") for x in at)] for line, of_x in cells.items()]
    return f"{measure.name} ({measure.unit}), at {claim.x}:\n\n" + table(["", *(f"{x:g}" for x in at)], rows)


def _comparisons(comparisons: Sequence[Comparison], *, column: str) -> str:
    rows = [[compared(one), one.measure.name, claimed(one), between(one), f"**{one.verdict}**"] for one in comparisons]
    return table(["comparison", "of", column, "found", "verdict"], rows)


def _mean(measure: Measure, values: Sequence[float]) -> str:
    mean = over_seeds(measure, values)
    return with_interval(mean) if mean else "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def write_page(name: str, claim: Claim, results: Results, output: Path, *, picture: str) -> Path:
    output.write_text(page(name, claim, results, picture=picture), encoding="utf-8")
    return output
