"""Where results, page and picture of a claim are, in a folder of runs or in docs, and how they are written."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from claims.catalogue import KINDS, modules, open_claim
from claims.page import table, write_page
from claims.picture import write_picture
from claims.results import Results, read_results
from claims.verdicts import overall
from claims.words import between, compared
from rlhf.atomic import write_whole
from rlhf.report.numbers import duration

TITLES = {
    "computed": "Computed: no training run, expectations as sums or from very many samples",
    "policy_gradients": "Policy gradients",
    "direct_alignment": "Direct alignment",
    "reward_models": "Reward models",
    "forgetting": "Forgetting",
}


@dataclass(frozen=True)
class Places:
    """The three files of each claim, and the index of all."""

    root: Path
    results: str
    page: str
    picture: str
    index: str

    def of(self, kind: str, name: str) -> Path:
        path = self.root / str(getattr(self, kind)).format(name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def in_runs(folder: Path) -> Places:
    return Places(folder, "{name}/results.json", "{name}/{name}.md", "{name}/{name}.png", "claims.md")


def in_docs(folder: Path) -> Places:
    return Places(folder, "results/claims/{name}.json", "claims/{name}.md", "images/claims/{name}.png", "claims.md")


def write_results(name: str, results: Results, places: Places) -> None:
    """The numbers of a claim, from which its page and its picture can be made anywhere."""
    write_whole(places.of("results", name), results.as_json() + "\n")


def write_pages(name: str, results: Results, places: Places) -> None:
    """The picture and the page of a claim."""
    claim, page, picture = open_claim(name), places.of("page", name), places.of("picture", name)
    write_picture(claim, results, picture)
    write_page(name, claim, results, page, picture=os.path.relpath(picture, page.parent))


def found(places: Places) -> dict[str, Results]:
    """The results of all claims that have some, in the catalogue's order."""
    files = {name: places.of("results", name) for name in modules()}
    return {name: read_results(name, file) for name, file in files.items() if file.is_file()}


def write_index(places: Places) -> Path:
    """One page with the verdicts of all claims that have results."""
    results = found(places)
    output = places.of("index", "")
    links = {name: os.path.relpath(places.of("page", name), output.parent) for name in results}
    output.write_text(index(results, links), encoding="utf-8")
    return output


ABOUT = """# Claims

Papers claim; here each claim stands beside the smallest experiment that could show it: arms that differ in that one
thing, a measure that was decided before the runs, several seeds, and the difference paired by seed with its 95 %
interval. Where an arm or a comparison was added after the first seeds, or a sentence reworded, the page says so.

    uv run python -m claims --list
    uv run python -m claims {example} --plan      # which runs there would be
    uv run python -m claims {example}             # make them, two at a time; killed and started again, it goes on
    uv run python -m claims all

**seen**: the interval lies on the side that is claimed. **opposite**: on the other side. **not seen**: it holds both
sides, which says that this experiment, of this size, does not show it, and not that it is false. A claim with several
comparisons says how many of them are what; what else its runs show stands on its page and does not count here. Where
there is nothing to see, 2.5 % of comparisons are called seen by chance; the verdicts below are of {comparisons}. Small
models, short runs: a verdict is about what is on its page."""


def index(results: Mapping[str, Results], links: Mapping[str, str]) -> str:
    """The index as Markdown: claim, verdict, what its first comparison found; and those not run yet."""
    head = ["claim", "verdict", "first comparison, 95 % interval", "seeds"]
    parts = []
    for kind in KINDS:
        own = [name for name, module in modules().items() if module.split(".")[1] == kind]
        rows = [_row(name, results[name], links[name]) if name in results else _not_run(name) for name in own]
        parts += [f"## {TITLES[kind]}\n\n{table(head, rows)}"] if rows else []
    comparisons = sum(len(open_claim(name).expected) for name in results)
    about = ABOUT.format(comparisons=comparisons, example=next(iter(results), next(iter(modules()))))
    seconds = duration(sum(one.seconds for one in results.values()))
    total = f"All runs and computations of this page together took {seconds}, one thread each; some on a busy machine."
    return "\n\n".join([about, *parts, total]) + "\n"


def _row(name: str, results: Results, link: str) -> list[str]:
    claim = open_claim(name)
    comparisons = results.comparisons(claim)
    first = comparisons[0]
    difference = f"{compared(first)}: {between(first)} ({first.measure.name})"
    return [f"[{claim.sentence}]({link})", f"**{overall(comparisons)}**", difference, str(len(results.seeds))]


def _not_run(name: str) -> list[str]:
    return [open_claim(name).sentence, "not run yet", f"`uv run python -m claims {name}`", "–"]
