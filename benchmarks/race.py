"""A race: both sides do the same work, each in a process of its own, in turns, on a machine that is otherwise quiet.

On a shared machine a step is many times slower while other programs run, because the threads of a matrix product wait
for each other. Taking turns step by step lets a disturbance fall on both sides; `Clock` measures how much of the
processor others used, and `take_turns` can wait until they use next to nothing.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIDES = ("ours", "trl")
QUIET = 0.15  # cores that others may use in an undisturbed step

type Spread = dict[str, float]  # median, min and max


# ---------------------------------------------------------------- the machine


def cpu_of_others() -> float:
    """Seconds of processor time that all but this process have used. Linux only; elsewhere 0."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _wait, irq, softirq, steal, *_ = map(int, stat.read_text().split("\n")[0].split()[1:])
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy - time.process_time()


def forget_peak_memory() -> None:
    """Loading is not what is measured. Linux only; elsewhere the peak includes it."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def peak_memory_gb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    import torch

    from rlhf.run.stopwatch import peak_memory_gb as peak

    return peak(torch.device("cpu"))


@dataclass(frozen=True)
class Cost:
    """What some work took."""

    seconds: float
    others: float  # cores that other programs used meanwhile
    memory_gb: float  # peak of the process since `forget_peak_memory`


class Clock:
    """Measures the work since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.others = cpu_of_others()

    def cost(self) -> Cost:
        seconds = time.perf_counter() - self.start
        others = max(0.0, cpu_of_others() - self.others) / seconds
        return Cost(seconds, others, peak_memory_gb())


def wait_until_quiet(deadline: float, seconds: float = 2.0) -> None:
    """Return once others use less than QUIET cores, or at the deadline (of time.monotonic)."""
    while time.monotonic() < deadline:
        before = cpu_of_others()
        time.sleep(seconds)
        if (cpu_of_others() - before) / seconds < QUIET:
            return


# ---------------------------------------------------------------- the sides


def load(name: str, *, seed: int):
    """The model and the tokenizer that both sides train."""
    import torch
    from transformers.utils import logging

    from rlhf.models.policy import load_policy, load_tokenizer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    return load_policy(name), load_tokenizer(name)


def load_for_trl(name: str, *, seed: int, cpu: str):
    """`load` with what TRL needs: a padding token and, unless `cpu` is "default", what we choose for a CPU."""
    if cpu == "ours":
        from rlhf.cpu.tune import tune_cpu

        tune_cpu()
    model, tokenizer = load(name, seed=seed)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


class Side:
    """A process that makes a step when it is sent a number, and ends when it is sent None."""

    def __init__(self, target: Callable, *args: object):
        context = multiprocessing.get_context("spawn")
        self.turn, theirs = context.Pipe()
        self.process = context.Process(target=target, args=(theirs, *args), daemon=True)
        self.process.start()
        theirs.close()

    def receive(self) -> Any:
        try:
            return self.turn.recv()
        except EOFError:
            self.process.join()
            sys.exit(f"{self.process.name} failed with exit code {self.process.exitcode}; its traceback is above")

    def step(self, number: int) -> Any:
        self.turn.send(number)
        return self.receive()

    def end(self) -> None:
        self.turn.send(None)
        self.process.join()


def start(targets: Mapping[str, Callable], options: object) -> tuple[dict[str, Side], dict[str, Any]]:
    """The sides, and the first message of each. One loads after the other: at once they would share the cores."""
    sides: dict[str, Side] = {}
    ready: dict[str, Any] = {}
    for name, target in targets.items():
        sides[name] = Side(target, options)
        ready[name] = sides[name].receive()
    return sides, ready


def take_turns(sides: Mapping[str, Side], number: int, label: str, *, deadline: float) -> dict[str, Any]:
    """One step of each side, each on a quiet machine if that comes before the deadline. A step is or has a `Cost`."""
    made = {}
    for name, side in sides.items():
        wait_until_quiet(deadline)
        made[name] = side.step(number)
        cost = made[name].cost
        print(f"{label} {name}: {cost.seconds:.2f} s, others used {cost.others:.2f} cores", file=sys.stderr)
    return made


# ---------------------------------------------------------------- results


def spread(values: Sequence[float]) -> Spread:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def print_table(
    results: Mapping[str, Mapping[str, Spread]],
    quotients: Mapping[str, Spread],
    lines: Sequence[tuple[str, str, str]],
) -> None:
    """A column a side, and their quotient. `lines`: label, key of the results, format."""
    width = 2 + max(len(label) for label, _, _ in lines)
    columns = [*results, *(["theirs / ours"] if quotients else [])]
    print(f"{'':{width}}" + "".join(f"{column:>24}" for column in columns))
    for label, key, form in lines:
        cells = [_cell(result[key], form) for result in results.values()]
        if key in quotients:
            cells.append(_cell(quotients[key], ".2f", "x"))
        print(f"{label:{width}}" + "".join(f"{cell:>24}" for cell in cells))


def _cell(value: Spread, form: str, unit: str = "") -> str:
    bounds = f" [{value['min']:{form}}, {value['max']:{form}}]" if value["min"] != value["max"] else ""
    return f"{value['median']:{form}}{unit}{bounds}"


# ---------------------------------------------------------------- the command line


def make_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options that all races of two sides have."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    add = parser.add_argument
    add("--model", default="smollm2-135m", help="a model name of rlhf.models.policy, or a folder")
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    add(
        "--trl_cpu",
        choices=("ours", "default"),
        default="ours",
        help="whose kernels, allocator and idle threads TRL has",
    )
    add("--seed", type=int, default=0)
    add("--only", choices=SIDES)
    add("--patience", type=float, default=0.0, help="minutes to wait for other programs to leave the machine alone")
    add("--json", type=Path, help="write all measurements there")
    return parser


def parse[OptionsT](
    parser: argparse.ArgumentParser, options: type[OptionsT]
) -> tuple[OptionsT, list[str], Path | None]:
    """The options, the names of the sides, and where to write the measurements."""
    arguments = vars(parser.parse_args())
    only = arguments.pop("only")
    path = arguments.pop("json")
    return options(**arguments), [only] if only else list(SIDES), path


def write_json(path: Path | None, record: object) -> None:
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n")
