"""Put a run's model on the Hugging Face Hub: uv run python -m rlhf.publish RUN user/name

`RUN/final` in one commit: weights, tokenizer, chat template and model card. The token is that of HF_TOKEN, or the one
that `hf auth login` has stored; nothing is asked.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.config.options import Parser
from rlhf.config.paths import user_path
from rlhf.config.recorded import read_provenance
from rlhf.errors import UserError, run_main
from rlhf.hub import use_cache_if_unreachable

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PLACE = "PATH_OR_HUB_ID"  # in a model card: where the model is loaded from


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m rlhf.publish", description="Put a run's final model on the Hugging Face Hub.")
    parser.add_argument("run", type=user_path, metavar="RUN", help="run directory, such as runs/grpo-seed0")
    parser.add_argument("repository", metavar="USER/NAME", help="the repository to make, such as me/speller")
    parser.add_argument("--private", action="store_true", help="only you can see it")
    parser.add_argument("--overwrite", action="store_true", help="write into a repository that is there already")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)

    final = find_final(options.run)
    refuse_name(options.repository)
    api = open_hub()
    url = publish(api, final, options.repository, private=options.private, overwrite=options.overwrite)
    print(url)
    if "\nlicense:" not in (final / "README.md").read_text(encoding="utf-8").partition("\n---\n")[0]:
        print(f"No license is given: add a line 'license: ...' at the top of {final / 'README.md'}, or on the Hub.")
    return 0


def find_final(run: Path) -> Path:
    """The finished model of a run.

    Raises:
        UserError: there is no run, or it is not finished.
    """
    if not read_provenance(run):
        raise UserError(f"'{run}' is not the directory of a run: it has no provenance.json", "Such as runs/grpo-seed0.")
    final = run / "final"
    if not (final / "config.json").is_file():
        raise UserError(f"the run '{run}' is not finished: it has no final/", hint="--resume goes on with it.")
    if not (final / "README.md").is_file():
        raise UserError(
            f"'{final}' has no model card (README.md)",
            hint="--resume --output_dir RUN on the finished run writes it, while its checkpoints are there.",
        )
    return final


def refuse_name(repository: str) -> None:
    """Raises: UserError, if no repository of the Hub can have the name, or it does not say whose it is."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"USER/NAME is '{repository}': {str(error).splitlines()[0]}") from error
    if "/" not in repository:
        raise UserError(f"USER/NAME is '{repository}': say whose it is", hint=f"For example me/{repository}.")


def open_hub() -> "HfApi":
    """The Hub with the user's token.

    Raises:
        UserError: there is no token, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if not token:
        raise UserError(
            "there is no token for the Hugging Face Hub",
            hint="Set HF_TOKEN to one that may write (https://huggingface.co/settings/tokens), or run hf auth login.",
        )
    if reason := use_cache_if_unreachable():
        raise UserError(f"the Hugging Face Hub cannot be reached: {reason}")
    return HfApi(token=token)


def publish(api: "HfApi", final: Path, repository: str, *, private: bool, overwrite: bool) -> str:
    """Upload a folder in one commit; returns the address of the repository.

    Args:
        overwrite: whether the repository may be there already; its other files stay.

    Raises:
        UserError: the repository is there, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HfHubHTTPError

    files = {file.relative_to(final).as_posix(): file for file in sorted(final.rglob("*")) if file.is_file()}
    card = files["README.md"].read_text(encoding="utf-8").replace(PLACE, repository)
    operations = [
        CommitOperationAdd(name, card.encode() if name == "README.md" else file) for name, file in files.items()
    ]
    try:
        if not overwrite and api.repo_exists(repository):
            raise UserError(f"{repository} is there already", hint="--overwrite writes into it; or take another name.")
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, operations, commit_message=f"{final.parent.resolve().name}, by RLHF Lab")
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{repository}: the Hub did not take it: {reason[-1]}",
            hint="A token that may only read, or one of another user, cannot write there.",
        ) from error
    return str(url)


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
