"""A family's `compare` command: every name with every seed on equal terms, one page, one picture, one table.

The family's compare.py says which runs there are; `sweep.py` makes them.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.config.command import Command
from rlhf.config.command_line import Parser
from rlhf.config.paths import refuse_strangers, user_path
from rlhf.errors import UserError
from rlhf.run.sweep import Planned, choose, make_all, refuse_stale

if TYPE_CHECKING:
    from rlhf.report.over_seeds import Axis

HELD_OUT = ("accuracy", "reward")  # what policies are compared by; the second is of tasks without reference answers

# Switches of a trainer that are refused here: they are for one run.
NOT_SHARED = ("resume", "overwrite", "plan", "show_config")


@dataclass(frozen=True)
class Varied:
    """A setting that differs between runs of one name."""

    key: str = ""  # "": none does
    values: tuple[str, ...] = ("",)

    def arguments(self, value: str) -> list[str]:
        return [f"--{self.key}", value] if self.key else []

    def label(self, name: str, value: str) -> str:
        return f"{name}, {self.key} {value}" if self.key else name

    def directory(self, name: str, value: str) -> str:
        return re.sub(r"[^\w.-]+", "_", f"{name}-{self.key}-{value}") if self.key else name


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
    metrics: Sequence[str] = HELD_OUT,
    equal: Sequence[str] = (),
    batches: Callable[[Any], int] | None = None,
    add: Callable[[Sequence[Path], Path], tuple[str, list[Path]]] | None = None,
) -> int:
    """Make all runs, then write comparison.html, .png and .md into the folder.

    Args:
        prog: "python -m policy_gradients.compare".
        what: the option that takes the names, such as "algorithms".
        key: the config key that a name is a value of, such as "algorithm"; `trainer`: the command that makes the run.
        names: all names that there are.
        folder: where runs and results are written unless --folder says otherwise.
        example: settings of a trainer, for --help.
        budget: keys that must be equal for a fair comparison.
        read: (name, seed, options for all runs) -> the arguments of its run and the command that they give, resolved.
        metrics: held-out metrics that have a table: patterns of their names.
        equal: the budgets that --equal offers, the usual one first; with fewer than two there is no such option.
            `sampled_tokens`: the runs are as they are, and are read where all have sampled as many tokens.
        batches: of a config whose `max_steps` are meant as optimizer steps: the `max_steps` that make as many, for
            `--equal optimizer_steps`. Curves are read along these.
        add: (run directories, folder) -> more text for comparison.md, and the pictures that it has drawn.

    Raises:
        UserError: a setting is varied and given to all runs; see `choose`, `plan_runs` and `make_all`.
    """
    given, shared = options(prog, what=what, folder=folder, example=example, equal=equal)
    chosen = choose(f"--{what}", getattr(given, what), names, seeds=given.seeds)
    baseline = given.against or chosen[0]
    if baseline not in chosen:
        raise UserError(f"--against {baseline}: not one of the {what} that are compared: {', '.join(chosen)}")
    if given.vary.key and any(word.partition("=")[0] == f"--{given.vary.key}" for word in shared):
        raise UserError(f"--{given.vary.key}: all runs get it, and --vary gives it several values", "Leave one out.")

    def read_run(name: str, seed: int, more: Sequence[str] = ()) -> tuple[list[str], Command[Any]]:
        return read(name, seed, [*shared, *more])

    budget_of = getattr(given, "equal", None)
    planned = plan_runs(
        chosen,
        seeds=given.seeds,
        folder=given.folder,
        key=key,
        budget=budget,
        read=read_run,
        batches=batches if budget_of == "optimizer_steps" else None,
        varied=given.vary,
    )
    make_all(planned, at_once=given.at_once)
    keys = [key] * (len(chosen) > 1 or not given.vary.key) + [given.vary.key] * bool(given.vary.key)
    text = write_all(
        planned,
        given.folder,
        key=keys,
        metrics=metrics,
        by=budget_of if budget_of in ("sampled_tokens", "optimizer_steps") else "steps",
        against=planned[chosen.index(baseline) * len(given.vary.values)].path,
    )
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
    prog: str, *, what: str, folder: str, example: str, equal: Sequence[str] = ()
) -> tuple[argparse.Namespace, list[str]]:
    """The options of a `compare` command, and the others, which go to every run.

    Args:
        what: "algorithms" or "losses".
        equal: see `compare`.
    """
    parser = Parser(
        prog=prog,
        description=f"Train with several {what} and seeds, and compare the runs.",
        epilog=f"Any setting of the trainer goes to every run, e.g. {example}.",
    )
    parser.add_argument(f"--{what}", default="all", metavar="A,B", help="names separated by commas (default: all)")
    parser.add_argument(
        "--vary", type=_varied, default=Varied(), metavar="KEY=X,Y", help="a setting of which each has all these values"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: 3)")
    parser.add_argument("--against", metavar="A", help="the one that the others are compared with (default: the first)")
    if len(equal) > 1:
        parser.add_argument(
            "--equal",
            choices=equal,
            default=equal[0],
            help=f"what all runs have, or are read at, the same number of (default: {equal[0]})",
        )
    parser.add_argument(
        "--at_once", type=int, default=1, metavar="N", help="runs at the same time, with a thread each (default: 1)"
    )
    parser.add_argument(
        "--folder", type=user_path, default=Path(folder), help=f"where runs and results are written (default: {folder})"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_known_args()


def _varied(text: str) -> Varied:
    """Of `KEY=X,Y`."""
    key, _, values = text.partition("=")
    each = tuple(value.strip() for value in values.split(","))
    if not key.strip() or not all(each) or len(set(each)) < len(each):
        raise argparse.ArgumentTypeError(f"wanted KEY=X,Y with different values, not '{text}'")
    return Varied(key.strip().removeprefix("--"), each)


def plan_runs(
    names: Sequence[str],
    *,
    seeds: int,
    folder: Path,
    key: str,
    budget: Sequence[str],
    read: Callable[..., tuple[list[str], Command[Any]]],
    batches: Callable[[Any], int] | None = None,
    varied: Varied = Varied(),
) -> list[Planned]:
    """Every name with every seed, seed by seed, so that a first comparison comes early.

    Args:
        key: the setting that a name is a value of, such as `algorithm`.
        budget: keys that must be equal for a fair comparison, but for the one that is varied.
        read: (name, seed, more arguments, if any) -> the arguments of its run and the command that they give, resolved.
        batches: see `compare`; the runs get so many `max_steps`.
        varied: a setting of which each name has all values.

    Raises:
        UserError: a setting is not valid, or contradicts names and seeds; budgets differ; a run that exists has other
            settings; or `folder` holds a comparison.md that is not ours.
    """
    planned, budgets = [], {}
    for seed in range(seeds):
        for name in names:
            for value in varied.values:
                more = varied.arguments(value)
                arguments, command = read(name, seed, more)
                _refuse_contradiction(command, {key: name, "seed": seed})
                asked = command.config.model_dump(mode="json")
                label = varied.label(name, value)
                budgets[label] = {it: _value(asked, it) for it in budget if it != varied.key}
                if batches is not None:
                    arguments, command = read(name, seed, [*more, "--max_steps", str(batches(command.config))])
                config = command.config.model_dump(mode="json")
                path = folder / f"{varied.directory(name, value)}-seed{seed}"
                planned.append(Planned(f"{label}, seed {seed}", path, command.trainer, arguments, config))
    refuse_unequal(budgets)
    for run in planned:
        refuse_stale(run)
    refuse_strangers(folder / "comparison.md", b"Held-out ", "table of this project")
    return planned


def _value(settings: Mapping[str, Any], key: str) -> Any:
    """Of a dotted key."""
    first, _, rest = key.partition(".")
    return _value(settings[first], rest) if rest else settings[first]


def _refuse_contradiction(command: Command[Any], wanted: Mapping[str, Any]) -> None:
    switched = [name for name in NOT_SHARED if getattr(command, name)] + (["fork"] if command.source else [])
    if switched:
        raise UserError(f"--{switched[0]} is for one run, not for a comparison")
    if command.origin["output_dir"] == "command line":
        raise UserError("--output_dir: each run has a directory of its own", "--folder DIR says where they are.")
    for key, value in wanted.items():
        found = getattr(command.config, key, value)
        if found != value:
            raise UserError(
                f"{key} is {found} ({command.origin[key]}), but the comparison asks for {value}",
                hint=f"Leave {key} to the comparison: what is given to all runs must not fix it.",
            )


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


def write_all(
    planned: Sequence[Planned],
    folder: Path,
    *,
    key: str | Sequence[str],
    metrics: Sequence[str] = HELD_OUT,
    by: "Axis" = "steps",
    against: Path | None = None,
) -> str:
    """Write comparison.html, comparison.png and comparison.md into `folder`; returns the tables.

    Args:
        key: config key or keys that name the lines, such as `algorithm`; runs that differ only in their seed are one.
        metrics: patterns of the names of those that have a table.
        by, against: see `rlhf.report.table.table`.
    """
    from rlhf.report.comparison_page import write_comparison
    from rlhf.report.picture import write_png
    from rlhf.report.runs import read_run
    from rlhf.report.table import table

    paths = [run.path for run in planned]
    measured = dict.fromkeys(target.metric for path in paths for target in read_run(path).evaluation)
    named = [metric for pattern in metrics for metric in measured if re.fullmatch(pattern, metric)]
    write_comparison(paths, folder / "comparison.html", key, by=by, against=against)
    write_png(paths, folder / "comparison.png", key, by=by)
    tables = [table(paths, key=key, metric=metric, by=by, against=against) for metric in named]
    text = "\n".join(one for one in tables if one)
    (folder / "comparison.md").write_text(text, encoding="utf-8")
    return text
