"""Mutation tests: change one thing in a module, and see whether the tests that judge this module notice.

    uv run --group mutation python tests/mutation.py rlhf/kl.py policy_gradients/critic.py

The changes are those of mutmut (its operators, its syntax trees). They are run here, since each of its own runs would
import PyTorch and Transformers anew or copy functions of 200 lines 500 times: one process imports everything once and
forks for each mutant, and only the project's own modules are imported in the fork. mutmut also leaves out decorated
functions, as everything under `torch.no_grad` is; here they are mutated.

`tests/mutation.toml` says which test files judge a module, and lists the mutants that change nothing observable, each
with its reason. A mutant is named by the lines that it changes, so that the list outlives edits elsewhere.
"""

import argparse
import atexit
import difflib
import gc
import importlib.util
import json
import os
import resource
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from random import Random
from typing import Any

import libcst as cst
from libcst.metadata import MetadataWrapper
from mutmut.mutation.file_mutation import ChildReplacementTransformer, MutationVisitor
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "rlhf",
    "policy_gradients",
    "reward_models",
    "direct_alignment",
    "instruction_tuning",
    "rejection_sampling",
    "distillation",
    "pipeline",
    "claims",
)
# Calls that only word a message; keyword arguments that no test on a CPU can feel.
MESSAGES = {"print", "say", "advise", "UserError", "ValueError", "Path"}
NOT_MUTATED = (
    *(cst.Annotation, cst.TypeParameters, cst.TypeAlias, cst.Decorator, cst.Import, cst.ImportFrom),
    *(cst.Raise, cst.Assert, cst.ConcatenatedString, cst.FormattedString),
)
SCRIPT = cst.parse_expression('__name__ == "__main__"')
UNFELT = {"strict", "hint", "help", "description", "device", "fused", "non_blocking"}


@dataclass(frozen=True)
class Mutant:
    module: str
    number: int  # in the file, from 1
    before: str  # the lines that are changed
    after: str
    source: str
    status: str = ""  # killed, survived, timeout, equivalent
    seconds: float = 0.0


class Visitor(MutationVisitor):
    """mutmut's, with decorated functions, and without what only words a message."""

    def __init__(self, left_out: set[str]):
        super().__init__(mutation_operators, IgnoredCode(set(), set(), set()))
        self.left_out = left_out  # names of functions, classes and constants

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, NOT_MUTATED):
            return True
        if isinstance(node, cst.If) and node.test.deep_equals(SCRIPT):
            return True
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            return node.name.value in self.left_out
        if isinstance(node, cst.Assign) and isinstance(node.targets[0].target, cst.Name):
            return node.targets[0].target.value in self.left_out
        if isinstance(node, cst.Arg) and node.keyword is not None:
            return node.keyword.value in UNFELT
        if isinstance(node, cst.Call):
            name = node.func.attr if isinstance(node.func, cst.Attribute) else node.func
            return isinstance(name, cst.Name) and name.value in {*MESSAGES, "len", "isinstance"}
        return False


def mutants_of(module: str, left_out: set[str], *, most: int, seed: int) -> tuple[list[Mutant], int]:
    """At most so many mutants of a file, drawn by the seed, and how many there are.

    Of the changes of one string the first is enough.
    """
    wrapper = MetadataWrapper(cst.parse_module((ROOT / module).read_text()))
    visitor = Visitor(left_out)
    tree = wrapper.visit(visitor)
    mutations = []
    strings: set[int] = set()
    for it in visitor.mutations:
        node = it.original_node
        if isinstance(node, cst.SimpleString) and id(node) in strings:
            continue
        if isinstance(node, cst.Call) and _only_unfelt(node, it.mutated_node):
            continue
        strings.add(id(node))
        mutations.append(it)
    found = []
    order = list(range(len(mutations)))
    Random(f"{seed} {module}").shuffle(order)
    for number in order:
        it = mutations[number]
        if len(found) == most:
            break
        source = tree.visit(ChildReplacementTransformer(it.original_node, it.mutated_node)).code
        if _compiles(source):
            found.append(Mutant(module, number, *_changed(tree.code, source), source))
    return found, len(mutations)


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _only_unfelt(before: cst.Call, after: cst.CSTNode) -> bool:
    """Whether the argument that is dropped or set to None is one of `UNFELT`."""
    kept = {id(arg) for arg in after.args} if isinstance(after, cst.Call) else set()
    gone = [arg for arg in before.args if id(arg) not in kept]
    return any(arg.keyword is not None and arg.keyword.value in UNFELT for arg in gone)


def _changed(before: str, after: str) -> tuple[str, str]:
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[3:]
    old, new = ([line[1:].strip() for line in lines if line[:1] == sign] for sign in "-+")
    return " ".join(old), " ".join(new)


# ------------------------------------------------------------------------------------------------------------ running


def warm_up(modules: Sequence[str]) -> None:
    """Import what the project's modules import, which every fork then has; they themselves are forgotten again.

    (Beartype knows a type by its name: a fork with the classes of a module from before it was mutated, and after, would
    take one for the other.)
    """
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import pytest  # noqa: F401
    import tiny_models  # noqa: F401

    for module in modules:
        importlib.import_module(module.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    forgotten = (*PACKAGES, "reasoning_gym")  # which keeps a list of tasks that ours enter themselves into
    for name in [name for name in sys.modules if name.partition(".")[0] in forgotten]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()  # so that no fork goes through all objects of PyTorch's to look for garbage
    atexit.register(gc.unfreeze)


def fork(mutant: Mutant | None, tests: Sequence[str], limit: float) -> int:
    """Run pytest in a child, with the mutated source in the place of the file's. Returns the child's pid."""
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 2))
    code = 70
    try:
        if mutant is not None:
            _overlay(ROOT / mutant.module, mutant.source)
        import pytest

        # one process, whatever pyproject.toml asks for: the mutant is in this one alone
        without = [word for name in ("cacheprovider", "unraisableexception", "anyio") for word in ("-p", f"no:{name}")]
        code = int(pytest.main(["-x", "-q", "--tb=no", "-n", "0", *without, *tests]))
    finally:
        os._exit(code)


def _overlay(file: Path, source: str) -> None:
    """Every import of `file` gets `source`, and nothing is written beside it."""
    sys.dont_write_bytecode = True
    plain = SourceFileLoader.get_data

    def get_data(self: SourceFileLoader, path: str) -> bytes:
        if Path(path) == file:
            return source.encode()
        if Path(path).parent == file.parent / "__pycache__" and Path(path).name.startswith(f"{file.stem}."):
            raise OSError("compiled from the file itself")
        return plain(self, path)

    SourceFileLoader.get_data = get_data


def wait(pid: int, limit: float) -> tuple[int, float]:
    """The exit code of a child, killed with all that it started after `limit` seconds, and how long it took."""
    start = time.monotonic()
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        late = time.monotonic() - start > limit
        if done or late:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            if not done:
                os.waitpid(pid, 0)
            return (os.waitstatus_to_exitcode(status) if done else -signal.SIGXCPU), time.monotonic() - start
        time.sleep(0.01)


def run(mutant: Mutant, tests: Sequence[str], limit: float) -> Mutant:
    code, seconds = wait(fork(mutant, tests, limit), 4 * limit)
    timeout = code in (-signal.SIGXCPU, -signal.SIGKILL)
    status = "survived" if code == 0 else "timeout" if timeout else "killed"
    return replace(mutant, status=status, seconds=round(seconds, 1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="files to mutate; all of tests/mutation.toml if none is given")
    parser.add_argument("--per-module", type=int, default=40, help="at most so many mutants of each, drawn by seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=ROOT / "runs" / "mutation.jsonl", help="all results, as JSON lines")
    parser.add_argument("--survivors", action="store_true", help="only those that survived or are new, by the log")
    parser.add_argument("--list", action="store_true", help="show the mutants, and run nothing")
    asked = parser.parse_args()
    config = tomllib.loads((ROOT / "tests" / "mutation.toml").read_text())
    unknown = [name for name in asked.modules if name not in config["judged_by"]]
    if unknown:
        parser.error(f"not in tests/mutation.toml: {', '.join(unknown)}")
    modules = asked.modules or list(config["judged_by"])
    equivalent = {(it["module"], it["before"], it["after"]) for it in config.get("equivalent", [])}
    before = _logged(asked.log) if asked.survivors else {}
    if not asked.list:
        warm_up(modules)
    results: list[Mutant] = []
    asked.log.parent.mkdir(parents=True, exist_ok=True)
    for module in modules:
        left_out = set(config.get("left_out", {}).get(module, ()))
        chosen, possible = mutants_of(module, left_out, most=asked.per_module, seed=asked.seed)
        if asked.list:
            for it in chosen:
                print(f"{module} {it.number}\n  - {it.before}\n  + {it.after}")
            continue
        tests = config["judged_by"][module]
        code, seconds = wait(fork(None, tests, 600), 600)
        if code:
            print(f"{module}: its tests fail without a mutation ({' '.join(tests)}: exit code {code})")
            return 2
        for it in chosen:
            known = before.get((module, it.before, it.after))
            if (module, it.before, it.after) in equivalent:
                it = replace(it, status="equivalent")
            elif known and known != "survived":
                it = replace(it, status=known)
            else:
                it = run(it, tests, 3 * seconds + 10)
            results.append(it)
            with asked.log.open("a") as log:
                log.write(json.dumps({k: v for k, v in asdict(it).items() if k != "source"}) + "\n")
            if it.status == "survived":
                print(f"{module} survived ({it.seconds} s)\n  - {it.before}\n  + {it.after}", flush=True)
        print(_row(module, [it for it in results if it.module == module], possible), flush=True)
    print(_row("all", results, len(results)))
    return int(any(it.status == "survived" for it in results))


def _logged(log: Path) -> dict[tuple[str, str, str], Any]:
    lines = log.read_text().splitlines() if log.exists() else []
    records = [json.loads(line) for line in lines]
    return {(it["module"], it["before"], it["after"]): it["status"] for it in records}


def _row(name: str, results: Sequence[Mutant], possible: int) -> str:
    """For a table: module, possible, tried, caught, equivalent, survived."""
    count = Counter(it.status for it in results)
    caught = count["killed"] + count["timeout"]
    share = caught / max(1, len(results) - count["equivalent"])
    numbers = (possible, len(results), caught, count["equivalent"], count["survived"], f"{share:.0%}")
    return f"| {name} | " + " | ".join(map(str, numbers)) + " |"


if __name__ == "__main__":
    sys.exit(main())
