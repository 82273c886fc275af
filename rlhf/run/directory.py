"""Whose directory is it? A run of ours is known by what it contains; what holds anything else is left alone.

A run has a provenance.json with our mark (runs from before the mark: with all the keys that it had), a resolved
config.yaml, and nothing that no run contains.
"""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from rlhf.config.command import Command
from rlhf.config.paths import numbered
from rlhf.config.recorded import read_config, read_provenance
from rlhf.config.resuming import find_run
from rlhf.config.schema import Config
from rlhf.errors import UserError
from rlhf.run.inputs import inside

MADE_BY = "rlhf-lab"  # the mark: provenance["made_by"]
STREAMS = ("metrics", "samples", "eval", "advice")
BEST = "best.safetensors"
LOCK = ".lock"

_BEFORE_THE_MARK = {"title", "command", "git_commit", "versions", "seed", "profile", "started", "metrics", "headline"}
_CONFIG_KEYS = {"model_name", "max_steps", "seed", "output_dir", "save_every"}

_TEXTS = "|".join([r"config\.yaml", r"provenance\.json", *(rf"{stream}\.jsonl" for stream in STREAMS)])
_PAGES = r"(?:report|evaluation)\.html"
_MODEL = (
    r"config\.json|generation_config\.json|model(?:-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|tokenizer[\w.]*\.(?:json|model)|"
    r"special_tokens_map\.json|added_tokens\.json|vocab\.(?:json|txt)|merges\.txt|[\w.]*spiece\.model|"
    r"README\.md|chat_template\.(?:jinja|json)|additional_chat_templates(?:/[^/]+\.jinja)?"
)
_ADAPTER = r"adapter_config\.json|adapter_model\.safetensors"
_CHECKPOINT = (
    r"manifest\.json|model(?:_\d+)?(?:-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|optimizer(?:_\d+)?(?:\.bin)?|"
    r"random_states_\d+\.pkl|custom_checkpoint_\d+\.pkl|(?:scheduler|sampler|scaler|dl_state_dict)[_\w]*\.(?:bin|pt)|"
    r"pytorch_model(?:_\w*\d+)?(?:-\d+-of-\d+)?(?:\.bin)?|(?:optimizer|pytorch_model)[_\w]*/(?:[^/]+\.distcp|\.metadata)"
)
_WANDB = (  # of one of its runs
    r"run-[-\w]+\.wandb(?:\.synced)?|logs(?:/debug[-\w]*\.log)?|tmp(?:/code)?|"
    r"files(?:/(?:config\.yaml|output\.log|requirements\.txt|conda-environment\.yaml|wandb-[-\w]+\.json|diff[-\w]*\.patch))?"
)
_KNOWN = [
    _TEXTS,
    _PAGES,
    r"evaluation\.jsonl|not_finite\.pt",
    re.escape(BEST),
    re.escape(LOCK),
    rf"\.partial_(?:{_TEXTS})|\.partial_{re.escape(BEST)}|\.(?:{_PAGES}|evaluation\.jsonl)\.\d+",
    rf"(?:final|\.partial_final)(?:/(?:{_MODEL}))?",
    rf"(?:adapter|\.partial_adapter)(?:/(?:{_ADAPTER}))?",
    rf"vllm_weights(?:/weights_\w+(?:/(?:{_MODEL}|{_ADAPTER}))?)?",
    rf"checkpoints(?:/(?:\.partial_|\.removed_)?step_\d+(?:/(?:{_CHECKPOINT}|{re.escape(BEST)}))?)?",
    rf"wandb(?:/(?:(?:offline-)?run-\d+_\d+-[-\w]+(?:/(?:{_WANDB}))?|latest-run|debug[-\w]*\.log|settings))?",
]
_LINKS = re.compile(r"wandb/(?:latest-run|debug[-\w]*\.log)")
_LEFTOVER = re.compile(rf"{re.escape(LOCK)}|\.partial_(?:{_TEXTS})|provenance\.json")


def is_leftover(folder: Path) -> bool:
    """Whether nothing is there but what a process leaves that is killed before its run begins."""
    names = os.listdir(folder)
    if not all(_LEFTOVER.fullmatch(name) for name in names):
        return False
    return "provenance.json" not in names or read_provenance(folder).get("made_by") == MADE_BY


def why_not_ours(folder: Path) -> str | None:
    """Why the folder is not, or not only, a run of ours; None if it is."""
    provenance, config = read_provenance(folder), read_config(folder)
    marked = provenance.get("made_by") == MADE_BY
    if not marked and not provenance.keys() >= _BEFORE_THE_MARK:
        return "its provenance.json is not one of a run" if provenance else "it has no provenance.json of a run"
    # A run that was being replaced when it was killed has no config: its mark is enough.
    if not config.keys() >= _CONFIG_KEYS and (config or not marked or (folder / "config.yaml").exists()):
        return "its config.yaml is not the resolved config of a run"
    found = list(_strangers(folder, str(config.get("wandb_project") or "rlhf-lab")))
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return "it also holds " + ", ".join(f"'{name}'" for name in found[:3]) + more + ", which no run writes"
    return None


def refuse_to_replace(folder: Path) -> None:
    """Raises: UserError, unless the folder is a run of ours and nothing else."""
    real, here = folder.resolve(), Path.cwd().resolve()
    special = {Path(real.anchor): "the root folder", Path.home().resolve(): "the home folder"}
    reason = special.get(real) or ("the current folder, or holds it" if here.is_relative_to(real) else None)
    reason = f"it is {reason}" if reason else why_not_ours(folder)
    if reason:
        raise UserError(
            f"--overwrite: '{folder}' is left alone: {reason}",
            hint="--overwrite replaces the directory of a run, and nothing else. --output_dir DIR writes elsewhere.",
        )


def look_at(command: Command[Any]) -> None:
    """See that the run directory of a command may be written.

    Raises:
        UserError: it is taken, or there is nothing to resume in it.
    """
    folder = Path(command.config.output_dir)
    exists = folder.exists() or folder.is_symlink()
    if command.source is not None:
        refuse_within(folder, command.source)
    if exists and not folder.is_dir():
        raise UserError(f"the run directory '{folder}' is a file", hint="--output_dir DIR writes elsewhere.")
    if command.resume:
        find_run(folder, option="resume", trainer=command.trainer)
    elif exists and not is_leftover(folder):
        if not command.overwrite:
            raise UserError(
                f"the run directory '{folder}' exists already",
                hint="--resume continues it, --overwrite replaces it, --output_dir DIR writes elsewhere.",
            )
        refuse_to_replace(folder)
        if names := inside(command.config.model_dump(mode="json"), folder):
            raise UserError(
                f"--overwrite: the run needs '{names[0]}', which is in '{folder}' and would be removed",
                hint="--output_dir DIR writes elsewhere.",
            )


def with_free_directory[ConfigT: Config](command: Command[ConfigT]) -> Command[ConfigT]:
    """The command of a new run whose directory nobody has named, in a directory of its own: runs/a, or runs/a-2 if that
    is there, or runs/a-3, ... which a note says."""
    wanted = str(command.config.output_dir)
    if command.origin["output_dir"] != "default" or command.resume or command.source or command.overwrite:
        return command
    free = next(path for number in count(1) if _is_free(path := numbered(wanted, number)))
    if str(free) == wanted:
        return command
    config = command.config.model_copy(update={"output_dir": str(free)})
    return replace(command, config=config, notes=(*command.notes, f"{wanted} is there already: this run is {free}"))


def _is_free(folder: Path) -> bool:
    exists = folder.exists() or folder.is_symlink()
    return not exists or (folder.is_dir() and is_leftover(folder))


def refuse_within(folder: Path, source: Path) -> None:
    """Raises: UserError, if a fork's new directory is the run that it starts from, or lies in it, or holds it."""
    new, old = folder.resolve(), source.resolve()
    if new.is_relative_to(old) or old.is_relative_to(new):
        raise UserError(
            f"--fork: '{folder}' and '{source}', the run that it starts from, are one directory or in each other",
            hint="Name another directory: --fork NEW_DIR.",
        )


def remove_contents(folder: Path, *, keep: tuple[str, ...] = (LOCK,)) -> None:
    """Empty a run's directory. The folder itself stays: it may be a link, or somebody's current folder."""
    for entry in sorted(
        folder.iterdir(), key=lambda it: it.name != "config.yaml"
    ):  # half-removed, it is no run to resume
        if entry.name in keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def make_folder(folder: Path) -> list[Path]:
    """Make a folder with its parents; returns those that were not there, the innermost first.

    Raises:
        UserError: that is not possible: a parent is a file, or nothing may be written there.
    """
    missing = [it for it in (folder, *folder.parents) if not it.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the folder '{folder}' cannot be made: {error.strerror}: '{error.filename}'",
            hint="--output_dir DIR writes elsewhere.",
        ) from error
    return missing


def _strangers(folder: Path, project: str) -> Iterator[str]:
    """What no run contains, by relative name."""
    tensorboard = rf"{re.escape(project)}(?:/[\d.]+)?(?:/(?:events\.out\.tfevents\.[^/]+|hparams\.yml))?"
    known = re.compile("|".join(f"(?:{it})" for it in [*_KNOWN, tensorboard]))
    for place, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = Path(place) / name
            relative = path.relative_to(folder).as_posix()
            if not known.fullmatch(relative) or (path.is_symlink() and not _LINKS.fullmatch(relative)):
                yield relative
                if name in folders:
                    folders.remove(name)  # named once, not with all that is in it
