"""The records of an evaluation, and what the console shows of them."""

from collections.abc import Mapping
from typing import Any

from rlhf.evaluate.measures import Attempts, differences, per_problem, records
from rlhf.generate.settings import GenerationSettings
from rlhf.statistics import in_brackets


def show(
    task: str, attempts: Mapping[str, Attempts], settings: Mapping[str, GenerationSettings]
) -> list[dict[str, Any]]:
    """Print the tables of one task; returns the records of all models, and of the differences from the first."""
    values = {model: per_problem(own) for model, own in attempts.items()}
    measured = {model: records(own, data=task) for model, own in values.items()}
    first, *others = values
    compared = {model: differences(values[model], values[first], data=task) for model in others}
    n, m = attempts[first].sampled.shape
    print(f"\n{task}: {n} held-out problems, {m} sampled answers to each, 95 % intervals over problems")
    _print_table(
        ["", *measured], zip(*[map(_value, own) for own in measured.values()], strict=True), list(values[first])
    )
    for model, own in attempts.items():
        if own.unverified:
            print(f"{model}: the verifier failed at {own.unverified} answers, which count as wrong")
    for model, own in compared.items():
        print(f"\n{model} against {first}, on the same problems with the same random numbers")
        rows = [(_value(it, sign=True), str(it["won"]), str(it["lost"]), str(it["tied"])) for it in own]
        _print_table(["", "difference", "won", "lost", "tied"], rows, list(values[model]))
    return [
        *({"model": model, **it, **_told(settings[model], m)} for model, own in measured.items() for it in own),
        *({"model": model, "against": first, **it, "samples": m} for model, own in compared.items() for it in own),
    ]


def _told(settings: GenerationSettings, samples: int) -> dict[str, Any]:
    """What a record says of how the model was asked."""
    return {"samples": samples, "settings": settings.model_dump()}


def _value(known: Mapping[str, Any], *, sign: bool = False) -> str:
    return f"{known['value']:{'+' if sign else ''}.3f}{in_brackets(known)}"


def _print_table(head: list[str], rows: Any, names: list[str]) -> None:
    lines = [head, *([name, *row] for name, row in zip(names, rows, strict=True))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *cells in lines:
        print("  ".join([name.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=True))]))
