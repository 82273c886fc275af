"""The runs of a claim with one seed, each by a family's own command: `before`, then the arms."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from claims.claim import Arm, Claim, File, RunOf, SeedPlus
from claims.commands import COMMANDS
from rlhf.run.planned import merged, planned_file, planned_run
from rlhf.run.sweep import Planned, refuse_stale


@dataclass(frozen=True)
class Seed:
    """What is made with one seed, in the folder of the claim: ARM-seed3, say."""

    claim: Claim
    seed: int
    folder: Path

    @cached_property
    def paths(self) -> dict[str, Path]:
        """The run directory or the file of everything that is made, by its name."""
        made = {name: one for name, one in {**self.claim.before, **self.claim.arms}.items() if _is_made(one)}
        paths = {name: self.folder / f"{slug(name)}-seed{self.seed}{_suffix(one)}" for name, one in made.items()}
        if len(set(paths.values())) < len(paths):
            raise ValueError(f"two of {', '.join(paths)} have one path")
        return paths

    @property
    def before(self) -> list[Planned]:
        return [self._planned(name, one) for name, one in self.claim.before.items()]

    @property
    def arms(self) -> list[Planned]:
        return [self._planned(name, arm) for name, arm in self.claim.arms.items() if arm.settings is not None]

    def _planned(self, name: str, one: Arm | File) -> Planned:
        label, path = f"{name}, seed {self.seed}", self.paths[name]
        own = {"seed": self.seed, **self._resolved(one.settings or {})}
        if isinstance(one, File):
            return planned_file(label, path, module=one.command, settings=own)
        module = one.command or self.claim.command
        run = planned_run(
            label,
            path,
            module=module,
            config_class=COMMANDS[module],
            settings=merged(self._resolved(self.claim.shared) if module == self.claim.command else {}, own),
            profile="laptop",
        )
        refuse_stale(run)
        return run

    def _resolved(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with paths in place of `RunOf`, and numbers in place of `SeedPlus`, in lists and groups too."""

        def resolved(value: Any) -> Any:
            match value:
                case RunOf(name):
                    return str(self.paths[name])
                case SeedPlus(number):
                    return self.seed + number
                case list():
                    return [resolved(one) for one in value]
                case Mapping():
                    return {key: resolved(one) for key, one in value.items()}
            return value

        return resolved(settings)


def slug(name: str) -> str:
    """A name as part of a path: `Dr. GRPO` is dr_grpo."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def planned(claim: Claim, seeds: Sequence[int], folder: Path) -> list[list[Planned]]:
    """What is made, in two rounds: `before` of all seeds, then the arms, seed by seed, so that a result comes early."""
    each = [Seed(claim, seed, folder) for seed in seeds]
    return [[run for one in each for run in one.before], [run for one in each for run in one.arms]]


def _is_made(one: Arm | File) -> bool:
    return one.settings is not None


def _suffix(one: Arm | File) -> str:
    return one.suffix if isinstance(one, File) else ""
