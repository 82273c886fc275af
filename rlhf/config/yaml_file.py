"""Config files: YAML 1.2 scalars, the line of every key, and bounds on size and depth."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from rlhf.config.keys import Key, Layer, flatten
from rlhf.config.paths import seen_from_here, user_path
from rlhf.config.profiles import PROFILES
from rlhf.config.schema import Config
from rlhf.config.words import as_text, shortened
from rlhf.errors import UserError, nearest

LARGEST_FILE = 10**6  # bytes of a config file; reading /dev/zero would never end
DEEPEST = 32  # levels of nesting
MOST_VALUES = 10_000  # values of a YAML text after its aliases are expanded

FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$")


class _Loader(yaml.SafeLoader):
    """Reads plain words as YAML 1.2 does. PyYAML follows 1.1, where 5e-6 is text, `no` is false and 1:30 is 90."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  (PyYAML's own way to declare it)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        """Keys are text, and a key given twice is an error; PyYAML silently keeps the last."""
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key.start_mark)
            if key.value in mapping:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            mapping[key.value] = self.construct_object(value, deep=True)
        return mapping


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 would misread (as SafeDumper does) and text that `_Loader` would read as a number."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(null|Null|NULL|~|)$"), ["n", "N", "~", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9]\d*)$"), list("-+0123456789"))
for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def to_yaml(config: Config) -> str:
    """The flat, resolved config as YAML; read through --config it gives an equal config."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_file(file: Path, keys: dict[str, Key]) -> tuple[Layer, dict[str, Layer]]:
    """The settings of a YAML file and those of its profile blocks, by profile."""
    tree, lines = load_yaml(read_bytes(file), str(file))
    layers: dict[str, Layer] = {}
    for profile in [p for p in PROFILES if p in tree]:
        block = tree.pop(profile)
        if not isinstance(block, dict | None):
            found = f"{file}:{lines[profile]}: {profile} is {as_text(block)}"
            raise UserError(f"{found}; accepted: the settings of that profile, as 'key: value' lines below it")
        layers[profile] = flatten(block or {}, keys, _in_block(file, lines, profile))
    return flatten(tree, keys, lambda key: f"{file}:{lines[key]}"), layers


def _in_block(file: Path, lines: dict[str, int], profile: str) -> Callable[[str], str]:
    return lambda key: f"profile {profile} ({file}:{lines[f'{profile}.{key}']})"


def find_config(name: str, folder: Path | None) -> Path:
    """The file that `--config NAME` names: a path, or the name of a file in the folder that comes with a command.

    Raises:
        UserError: it is a bare name, and no file in the folder has it.
    """
    path = user_path(name)
    if folder is None or path.exists() or path.name != name:
        return path
    own = folder / name if path.suffix else folder / f"{name}.yaml"
    if own.is_file():
        return seen_from_here(own)
    there = [Path(it).stem for it in _yaml_names(folder)]
    if path.suffix:
        there = _yaml_names(path.parent) + _yaml_names(folder)
    raise UserError(f"there is no config file {name}", nearest(name, there) or None)


def read_bytes(file: Path) -> bytes:
    """The content of a config file.

    Raises:
        UserError: it does not exist, cannot be read, is a folder or is too large.
    """
    try:
        if file.is_dir():
            raise UserError(f"{file} is a folder, not a config file", nearest("", _yaml_names(file)) or None)
        if file.exists():
            with file.open("rb") as opened:
                content = opened.read(LARGEST_FILE + 1)
            if len(content) > LARGEST_FILE:
                raise UserError(f"{file} is larger than {LARGEST_FILE // 10**6} MB: no config file")
            return content
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise UserError(f"the config file {shortened(str(file))} cannot be read: {_reason(error)}") from error
    if not file.parent.is_dir():
        raise UserError(
            f"there is no config file {file}: the folder {file.parent} does not exist",
            hint=f"--config {file.stem} is the one that comes with the command, if it has one of that name.",
        )
    raise UserError(f"there is no config file {file}", nearest(file.name, _yaml_names(file.parent)) or None)


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _yaml_names(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if f.suffix in {".yaml", ".yml"})


def load_yaml(text: str | bytes, name: str) -> tuple[dict[Any, Any], dict[str, int]]:
    """A YAML mapping as a tree, and the line of each dotted key (from 1)."""
    try:
        node, tree = _compose(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a tag that lies, such as `!!int fast`
        raise UserError(f"{name}{_problem(error)}") from error
    if tree is None:
        raise UserError(f"{name} is empty", "a config file holds 'key: value' lines")
    if not isinstance(tree, dict):
        raise UserError(f"{name} holds a {node.id} at the top level", "a config file holds 'key: value' lines")
    return tree, dict(_lines(node))


def read_yaml(text: str) -> Any:
    """The value of a text, read as in a config file.

    Raises:
        UserError: it is not YAML.
    """
    try:
        return _compose(text)[1]
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"which is not valid YAML{_problem(error)}") from error


def _compose(text: str | bytes) -> tuple[Any, Any]:
    """The YAML node of a text, and its value.

    Raises:
        yaml.YAMLError, ValueError: it is not YAML, nested too deeply, or grows too large when its aliases are followed.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _refuse_huge(node)
        return node, loader.construct_document(node) if node else None
    except RecursionError as error:
        raise yaml.YAMLError(f"nested more than {DEEPEST} levels deep") from error
    except (LookupError, TypeError, AttributeError) as error:  # a tag that lies, such as `!!bool maybe` or `!!int ''`
        raise yaml.YAMLError("a tag (!!...) that does not fit its value") from error


def _refuse_huge(node: yaml.Node | None) -> None:
    """Count values with every alias expanded: a few lines of aliases can expand to more than fits in memory."""
    left = MOST_VALUES
    waiting = [(node, 1)]
    while waiting:
        inner, depth = waiting.pop()
        left -= 1
        if inner is None or isinstance(inner, yaml.ScalarNode):
            continue
        if depth > DEEPEST or left < 0:
            most = f"nested more than {DEEPEST} levels deep" if depth > DEEPEST else f"more than {MOST_VALUES} values"
            raise yaml.MarkedYAMLError(problem=most, problem_mark=inner.start_mark)
        pairs = inner.value if isinstance(inner, yaml.MappingNode) else [(None, item) for item in inner.value]
        waiting += [(value, depth + 1) for _, value in pairs]


def _problem(error: Exception) -> str:
    """':LINE: what is wrong' for a file that YAML cannot read."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f":{error.problem_mark.line + 1}: {error.problem or 'not valid YAML'}"
    return f": not valid YAML: {str(error).splitlines()[0]}"


def _lines(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Each dotted key and its line, from 1."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield f"{prefix}{key.value}", key.start_mark.line + 1
            yield from _lines(value, f"{prefix}{key.value}.")
