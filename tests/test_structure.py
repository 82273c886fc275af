"""The structure of the code: which module may import which, and how long a file and a function may be.

The import graph is read from the sources: imports at the top of a module, and those inside functions, which `--help`
puts off for speed, for the arrows between packages.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAMILIES = {
    "policy_gradients",
    "reward_models",
    "direct_alignment",
    "instruction_tuning",
    "rejection_sampling",
    "distillation",
}
ABOVE = ("pipeline", "claims", "benchmarks")  # they import families, and nobody imports them
PACKAGES = ("rlhf", *sorted(FAMILIES), *ABOVE)
LONGEST_FILE = 350
LONGEST_FUNCTION = 80
MOST_FILES = 22  # of rlhf/, beside its folders

# The folders of rlhf, and which others each may import. `front` is the modules beside the folders.
ROOMS = {
    "cpu": set(),
    "config": {"front"},
    "embedded": {"front", "config", "models", "text"},
    "text": {"front"},
    "servers": {"front", "config", "models", "run"},
    "data": {"front", "config", "text"},
    "models": {"front", "config", "cpu", "data", "text"},
    "tasks": {"front", "config", "data", "text"},
    "generate": {"front", "config", "data", "models", "tasks", "text"},
    "evaluate": {"front", "config", "data", "generate", "models", "tasks", "text"},
    "judges": {"front", "config", "data", "models", "servers", "tasks", "text"},
    "chat": {"front", "config", "data", "generate", "models", "tasks", "text"},
    "report": {"front", "config"},
    "publish": {"front", "config"},
    "run": {"front", "config", "cpu", "data", "embedded", "models", "report", "tasks", "text"},
    "front": {"cpu", "data", "models", "tasks", "text"},
}
# Modules beside the folders that import no folder.
MATHS = {"tensors", "kl", "aggregate", "statistics", "random_keys"}


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(file): file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))}


def imports(file: Path, *, inside_functions: bool) -> Iterator[str]:
    """The modules that a file imports."""
    waiting: list[ast.AST] = [ast.parse(file.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from rlhf.report import charts` imports a module, `from rlhf.kl import k1` a function of one.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in FILES else node.module or "" for name in names)
        elif inside_functions or not isinstance(node, ast.FunctionDef):
            waiting += ast.iter_child_nodes(node)


@cache
def graph() -> dict[str, set[str]]:
    return {
        name: {other for other in imports(file, inside_functions=False) if other in FILES and other != name}
        for name, file in FILES.items()
    }


def circle_in(arrows: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next, and the last the first; empty if there are none."""
    finished: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in finished:
            return []
        for other in sorted(arrows[name]):
            if found := search(other, [*path, name]):
                return found
        finished.add(name)
        return []

    return next((found for name in arrows if (found := search(name, []))), [])


def test_a_circle_is_found() -> None:
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def test_no_import_circle() -> None:
    assert circle_in(graph()) == []


@pytest.mark.parametrize("package", ["rlhf", *sorted(FAMILIES)])
def test_imports_run_one_way(package: str) -> None:
    """rlhf imports no family, families import rlhf alone, and neither what stands above them."""
    assert_imports_none(package, {*FAMILIES, *ABOVE} - {package})


@pytest.mark.parametrize("package", ABOVE)
def test_what_stands_above_the_families_stands_alone(package: str) -> None:
    assert_imports_none(package, {*ABOVE} - {package})


def assert_imports_none(package: str, unwanted: set[str]) -> None:
    for name, file in FILES.items():
        if name.split(".")[0] == package:
            others = {other.split(".")[0] for other in imports(file, inside_functions=True)}
            assert not others & unwanted, name


def room_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "front"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_their_line_allows(room: str) -> None:
    for name, others in graph().items():
        if name.split(".")[0] == "rlhf" and room_of(name) == room:
            wrong = [other for other in others if room_of(other) not in ROOMS[room] | {room}]
            assert not wrong, f"{name} imports {wrong}"


def test_the_rooms_have_no_circle_either() -> None:
    assert circle_in({room: others - {"front"} for room, others in ROOMS.items() if room != "front"}) == []


def test_every_folder_of_rlhf_is_a_room() -> None:
    folders = {folder.name for folder in (ROOT / "rlhf").iterdir() if (folder / "__init__.py").is_file()}
    assert folders == ROOMS.keys() - {"front"}


@pytest.mark.parametrize("name", sorted(MATHS))
def test_maths_imports_no_room(name: str) -> None:
    assert {room_of(other) for other in graph()[f"rlhf.{name}"]} <= {"front"}


def test_rlhf_shows_few_files() -> None:
    assert len(list((ROOT / "rlhf").glob("*.py"))) <= MOST_FILES


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_and_no_function_is_long(package: str) -> None:
    for name, file in FILES.items():
        if name.split(".")[0] != package:
            continue
        text = file.read_text()
        assert len(text.splitlines()) <= LONGEST_FILE, name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, f"{name}.{node.name}"


# What Windows does not have. `verifier_worker` runs in a process of its own, which is not started there.
POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"}
POSIX_NAMES = {"fork", "O_NOFOLLOW", "O_NONBLOCK", "SIGHUP", "SIGKILL", "SIGALRM", "setitimer", "getuid", "mkfifo"}
MAY_USE_POSIX = {"rlhf.system", "rlhf.tasks.verifier_worker"}


@pytest.mark.parametrize("package", [package for package in PACKAGES if package != "benchmarks"])
def test_what_windows_does_not_have_is_used_in_one_place(package: str) -> None:
    for name, file in FILES.items():
        if name.split(".")[0] != package or name in MAY_USE_POSIX:
            continue
        assert not POSIX_MODULES & set(imports(file, inside_functions=True)), name
        used = {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
        assert not POSIX_NAMES & used, name
