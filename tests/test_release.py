"""What a release says of itself agrees in every place."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
HEADINGS = re.findall(r"^## (\S+)(?: \((unreleased)\))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_version_is_the_newest_of_the_changelog() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest, unreleased = HEADINGS[0]
    assert version == newest + (".dev0" if unreleased else "")


def test_citation_names_the_last_release() -> None:
    released = next(version for version, unreleased in HEADINGS if not unreleased)
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]) == released


def test_links_of_the_documents_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_a_wheel_has_every_package_with_its_types_and_its_configs() -> None:
    """Hatch takes whole folders, but for what git ignores."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(packages) == {file.parent.name for file in ROOT.glob("*/__init__.py")} - {"benchmarks"}
    for package in packages:
        assert (ROOT / package / "py.typed").is_file(), package
        assert package in ("rlhf", "claims") or list((ROOT / package / "configs").glob("*.yaml")), package


def test_the_project_without_cuda_is_the_same_but_for_pytorch() -> None:
    """The same day, the same packages left out (pycosat is one that would be compiled), the same tools for tests."""
    with_cuda, without = (tomllib.loads((ROOT / folder / "pyproject.toml").read_text()) for folder in ("", "cpu"))
    for key in ("exclude-newer", "override-dependencies"):
        assert with_cuda["tool"]["uv"][key] == without["tool"]["uv"][key]
    assert "pycosat; sys_platform == 'never'" in without["tool"]["uv"]["override-dependencies"]
    assert set(without["dependency-groups"]["dev"]) <= set(with_cuda["dependency-groups"]["dev"])
