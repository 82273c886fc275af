"""The claims of papers, put to the test: uv run python -m claims NAME, or all.

Makes the runs of a claim, several at a time, compares its arms seed by seed, and writes results.json, a page and a
picture. Finished runs are used, and stopped ones go on; what is computed is kept in the cache.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from claims.catalogue import names, open_claim
from rlhf.config.options import Parser, whole
from rlhf.config.paths import user_path
from rlhf.errors import UserError, run_main
from rlhf.run.sweep import choose

DOCS = Path(__file__).parents[1] / "docs"


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m claims", description="Claims of papers, each with the experiment that shows it.")
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="claims by name, or all")
    add("--list", action="store_true", help="say which claims there are, then stop")
    add("--plan", action="store_true", help="say which runs there would be, then stop")
    add("--seeds", type=whole(1, 100), metavar="N", help="seeds 0 to N - 1 (default: each claim's own number)")
    add("--at_once", type=whole(1, 64), default=2, metavar="N", help="runs at a time, a thread each (default: 2)")
    add("--output_dir", type=user_path, default=Path("runs/claims"), help="for runs and results (default: runs/claims)")
    add("--finished", action="store_true", help="make no run: take the seeds of which all runs are there")
    add("--no_pages", action="store_true", help="write results.json alone, which --redraw can draw elsewhere")
    add("--write_docs", action="store_true", help="write pages, pictures, results and the index into docs/ as well")
    add("--redraw", action="store_true", help="write them again from the results in docs/, without a run")
    add("--quiet", action="store_true", help="print the verdicts alone")
    add("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(sys.argv[1:] if arguments is None else arguments)
    if options.list:
        print("\n".join(f"{name:<24} {open_claim(name).sentence}" for name in names()))
        return 0
    if not options.names:
        raise UserError("which claim? Give a name, or all", "--list says which there are.")
    chosen = choose("NAME", ",".join(options.names), names(), seeds=1)
    if options.plan:
        print("\n".join(plan(name, seeds_of(name, options), options.output_dir / name) for name in chosen))
        return 0
    from claims.output import in_docs, in_runs, write_index

    places = [in_docs(DOCS)] if options.redraw else [in_runs(options.output_dir)]
    places += [in_docs(DOCS)] if options.write_docs else []
    if options.redraw:
        chosen = [name for name in chosen if places[0].of("results", name).is_file()]
        if not chosen:
            raise UserError(f"{options.names[0]}: there are no results in {places[0].root}", "Leave --redraw out.")
    for name in chosen:
        print(make(name, options, places), flush=True)
    if not options.no_pages:
        for place in places:
            print(f"index: {write_index(place)}")
    return 0


def seeds_of(name: str, options: argparse.Namespace) -> range:
    return range(options.seeds or open_claim(name).seeds)


def plan(name: str, seeds: range, folder: Path) -> str:
    """The runs of a claim, one a line."""
    claim = open_claim(name)
    if claim.compute:
        return f"{name}: computed with {len(seeds)} seeds"
    from claims.runs import planned

    runs = [run for round_ in planned(claim, seeds, folder) for run in round_]
    there = sum(run.done for run in runs)
    lines = [f"{name}: {len(runs)} runs, {there} of them there"]
    return "\n".join([*lines, *(f"    {run.label:<40} {run.path}" for run in runs)])


def make(name: str, options: argparse.Namespace, places: Sequence) -> str:
    """Make or read the results of a claim, write them, and say what they are."""
    from claims.output import write_pages, write_results
    from claims.results import finished, make_results, read_results
    from claims.verdicts import overall
    from claims.words import between, compared

    claim, seeds, folder = open_claim(name), seeds_of(name, options), options.output_dir / name
    if options.redraw:
        results = read_results(name, places[0].of("results", name))
    else:
        if options.finished:
            seeds = finished(claim, seeds, folder)
        results = make_results(name, seeds, folder, at_once=options.at_once, quiet=options.quiet)
    for place in places:
        write_results(name, results, place)
    for place in [] if options.no_pages else places:
        write_pages(name, results, place)
    comparisons = results.comparisons(claim)
    lines = [f"{name}: {claim.sentence} {overall(comparisons)}"]
    for one in [*comparisons, *results.beside(claim)]:
        lines.append(f"    {one.measure.name}, {compared(one)}: {between(one)} {one.verdict}")
    where = "results" if options.no_pages else "page"
    return "\n".join([*lines, f"    {where}: {places[-1].of(where, name)}"])


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
