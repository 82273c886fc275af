"""Comparisons: many runs, made one after the other, resumed where they stopped, and shown side by side.

`compare` is the command; each family's compare.py says which runs it makes.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from rlhf.config.command import Command
from rlhf.config.command_line import Parser
from rlhf.config.paths import refuse_strangers, user_path
from rlhf.config.recorded import read_config, read_provenance
from rlhf.errors import UserError, nearest
from rlhf.run.inputs import changed, inputs

HELD_OUT = ("accuracy", "reward")  # what runs are compared by; the second is of tasks without reference answers


@dataclass(frozen=True)
class Planned:
    """A run to make: `python -m module *arguments --output_dir path`."""

    label: str
    path: Path
    module: str
    arguments: Sequence[str]
    config: Mapping[str, Any] = field(default_factory=dict)  # the resolved settings that are asked for

    @property
    def done(self) -> bool:
        return (self.path / "final").is_dir()

    @property
    def command(self) -> list[str]:
        started = (self.path / "config.yaml").is_file()
        resume = ["--resume"] if started else []
        return ["-m", self.module, *self.arguments, "--output_dir", str(self.path), "--quiet", *resume]


# Settings that do not make a finished run another one: how it was saved and shown.
UNASKED = (
    *("output_dir", "save_every", "keep_checkpoints", "sample_every", "tensorboard", "trackio"),
    *("wandb_project", "wandb_entity", "wandb_run_name", "wandb_mode"),
)
# Switches of a trainer that are refused here: they are for one run.
NOT_SHARED = ("resume", "overwrite", "plan", "show_config")


def compare(
    prog: str,
    *,
    what: str,
    key: str,
    names: Sequence[str],
    folder: str,
    example: str,
    budget: Sequence[str],
    read: Callable[[str, int, list[str]], tuple[list[str], Command[Any]]],
    batches: Callable[[Any], int] | None = None,
    add: Callable[[Sequence[Path], Path], tuple[str, list[Path]]] | None = None,
) -> int:
    """A family's `compare` command: make all runs, then write comparison.html, .png and .md into the folder.

    Args:
        prog: "python -m policy_gradients.compare".
        what: the option that takes the names, such as "algorithms".
        key: the config key that a name is a value of, such as "algorithm".
        names: all names that there are.
        folder: where runs and results are written unless --folder says otherwise.
        example: settings of a trainer, for --help.
        budget: keys that must be equal for a fair comparison.
        read: (name, seed, options for all runs) -> the arguments of its run and the command that they give, resolved.
        batches: of a config whose `max_steps` are meant as optimizer steps: the `max_steps` that make as many, for
            `--equal optimizer_steps`. Without it each step of a run is one optimizer step, and there is no such option.
        add: (run directories, folder) -> more text for comparison.md, and the pictures that it has drawn.

    Raises:
        UserError: see `choose`, `plan_runs` and `make_all`.
    """
    given, shared = options(prog, what=what, folder=folder, example=example, equal=batches is not None)
    chosen = choose(f"--{what}", getattr(given, what), names, seeds=given.seeds)

    def read_run(name: str, seed: int, more: Sequence[str] = ()) -> tuple[list[str], Command[Any]]:
        return read(name, seed, [*shared, *more])

    equalize = batches if getattr(given, "equal", "") == "optimizer_steps" else None
    planned = plan_runs(
        chosen, seeds=given.seeds, folder=given.folder, key=key, budget=budget, read=read_run, batches=equalize
    )
    make_all(planned)
    text = write_all(planned, given.folder, key=key)
    pictures = [given.folder / "comparison.png"]
    if add:
        more, drawn = add([run.path for run in planned], given.folder)
        text = "\n".join(part for part in (text, more) if part)
        (given.folder / "comparison.md").write_text(text, encoding="utf-8")
        pictures += drawn
    print(text)
    label = "picture:" if len(pictures) == 1 else "pictures:"
    print(f"{'page:':{len(label)}} {given.folder / 'comparison.html'}")
    print(f"{label} {', '.join(map(str, pictures))}")
    return 0


def options(
    prog: str, *, what: str, folder: str, example: str, equal: bool = False
) -> tuple[argparse.Namespace, list[str]]:
    """The options of a `compare` command, and the others, which go to every run.

    Args:
        what: "algorithms" or "losses".
        equal: whether there is `--equal`.
    """
    parser = Parser(
        prog=prog,
        description=f"Train with several {what} and seeds, and compare the runs.",
        epilog=f"Any setting of the trainer goes to every run, e.g. {example}.",
    )
    parser.add_argument(f"--{what}", default="all", metavar="A,B", help="names separated by commas (default: all)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: 3)")
    parser.add_argument("--folder", type=user_path, default=Path(folder), help="where runs and results are written")
    if equal:
        parser.add_argument(
            "--equal",
            choices=("batches", "optimizer_steps"),
            default="batches",
            help="what max_steps counts, and so what all runs have the same number of (default: batches of samples)",
        )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_known_args()


def plan_runs(
    names: Sequence[str],
    *,
    seeds: int,
    folder: Path,
    key: str,
    budget: Sequence[str],
    read: Callable[..., tuple[list[str], Command[Any]]],
    batches: Callable[[Any], int] | None = None,
) -> list[Planned]:
    """Every name with every seed, seed by seed, so that a first comparison comes early.

    Args:
        key: the setting that a name is a value of, such as `algorithm`.
        budget: keys that must be equal for a fair comparison.
        read: (name, seed, more arguments, if any) -> the arguments of its run and the command that they give, resolved.
        batches: see `compare`; the runs get so many `max_steps`.

    Raises:
        UserError: a setting is not valid, or contradicts names and seeds; budgets differ; a run that exists has other
            settings; or `folder` holds a comparison.md that is not ours.
    """
    planned, budgets = [], {}
    for seed in range(seeds):
        for name in names:
            arguments, command = read(name, seed)
            _refuse_contradiction(command, {key: name, "seed": seed})
            asked = command.config.model_dump(mode="json")
            budgets[name] = {it: asked[it] for it in budget}
            if batches is not None:
                arguments, command = read(name, seed, ["--max_steps", str(batches(command.config))])
            config = command.config.model_dump(mode="json")
            path = folder / f"{name}-seed{seed}"
            planned.append(Planned(f"{name}, seed {seed}", path, command.trainer, arguments, config))
    refuse_unequal(budgets)
    for run in planned:
        refuse_stale(run)
    refuse_strangers(folder / "comparison.md", b"Held-out ", "table of this project")
    return planned


def _refuse_contradiction(command: Command[Any], wanted: Mapping[str, Any]) -> None:
    switched = [name for name in NOT_SHARED if getattr(command, name)] + (["fork"] if command.source else [])
    if switched:
        raise UserError(f"--{switched[0]} is for one run, not for a comparison")
    if command.origin["output_dir"] == "command line":
        raise UserError("--output_dir: each run has a directory of its own", "--folder DIR says where they are.")
    for key, value in wanted.items():
        found = getattr(command.config, key)
        if found != value:
            raise UserError(
                f"{key} is {found} ({command.origin[key]}), but the comparison asks for {value}",
                hint=f"Leave {key} to the comparison: what is given to all runs must not fix it.",
            )


def refuse_stale(run: Planned) -> None:
    """Check that an existing run is the one that is asked for; then it is used.

    Raises:
        UserError: it has other settings, or its input files have changed since.
    """
    there = read_config(run.path)
    differ = [
        f"{key} is {there[key]} there, {value} is asked for"
        for key, value in run.config.items()
        if key not in UNASKED and key in there and there[key] != value
    ]
    if there:
        now = inputs({key: value for key, value in run.config.items() if key not in UNASKED})
        differ += [
            f"'{name}' has changed since" for name in changed(read_provenance(run.path).get("inputs") or {}, now)
        ]
    if differ:
        raise UserError(
            f"'{run.path}' is a run with other settings: {'; '.join(differ)}",
            hint="--folder DIR compares elsewhere; or remove that directory, and the run is made anew.",
        )


def choose(option: str, given: str, names: Sequence[str], *, seeds: int) -> list[str]:
    """The names that `--algorithms all` or `--algorithms a,b` mean.

    Raises:
        UserError: there is no such name, one is given twice, or there is not even one seed.
    """
    chosen = list(names) if given == "all" else [name.strip() for name in given.split(",")]
    if twice := [name for name in dict.fromkeys(chosen) if chosen.count(name) > 1]:
        raise UserError(f"{option}: {', '.join(twice)} is given twice", "Repetitions are seeds: --seeds N.")
    for name in chosen:
        if name not in names:
            raise UserError(f"{option}: there is no '{name}': {nearest(name, names)}".rstrip(": "))
    if seeds < 1:
        raise UserError(f"--seeds: at least 1, not {seeds}")
    return chosen


def refuse_unequal(budgets: Mapping[str, Mapping[str, Any]]) -> None:
    """`budgets`: for each name the settings that must be equal for a fair comparison.

    Raises:
        UserError: they differ.
    """
    (first, wanted), *others = budgets.items()
    for name, budget in others:
        for key, value in budget.items():
            if value != wanted[key]:
                raise UserError(
                    f"{key}: {name} has {value}, {first} has {wanted[key]}: no equal terms",
                    hint=f"Set it for all: --{key} VALUE.",
                )


def make_all(planned: Sequence[Planned], *, at_once: int = 1, quiet: bool = False) -> None:
    """Make the runs that do not exist yet, each in a process of its own.

    Args:
        at_once: runs that are made at the same time; each of several has one thread.
        quiet: print nothing, unless a run fails.

    Raises:
        UserError: a run failed. The others are kept, and the same command continues from there.
    """

    failed = Event()

    def make(number: int, run: Planned) -> None:
        if failed.is_set():
            return
        where = f"[{number}/{len(planned)}] {run.path}"
        if not quiet:
            print(f"{where}: there already" if run.done else f"{where}: {run.label}", flush=True)
        if not run.done:
            try:
                _make(run, {"OMP_NUM_THREADS": "1"} if at_once > 1 else {})
            except BaseException:
                failed.set()
                raise

    with ThreadPoolExecutor(at_once) as pool:
        made = [pool.submit(make, number, run) for number, run in enumerate(planned, start=1)]
        try:
            for one in as_completed(made):
                one.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # those that have begun end by themselves


def _make(run: Planned, environment: Mapping[str, str]) -> None:
    command = [sys.executable, *run.command]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode != 0:
        print(done.stdout, end="")
        raise UserError(
            f"{run.path} ended with exit code {done.returncode}; its message is above",
            hint="The same command goes on from here.",
        )


def write_all(planned: Sequence[Planned], folder: Path, *, key: str) -> str:
    """Write comparison.html, comparison.png and comparison.md into `folder`; returns the table.

    `key`: the config key that names the lines, such as `algorithm`. Runs that differ only in their seed are one line.
    """
    from rlhf.report.comparison_page import write_comparison
    from rlhf.report.picture import write_png
    from rlhf.report.table import table

    paths = [run.path for run in planned]
    write_comparison(paths, folder / "comparison.html", key)
    write_png(paths, folder / "comparison.png", key)
    tables = [table(paths, key=key, metric=metric) for metric in HELD_OUT]
    text = "\n".join(one for one in tables if one)
    (folder / "comparison.md").write_text(text, encoding="utf-8")
    return text
