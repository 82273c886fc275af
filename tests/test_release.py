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
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
