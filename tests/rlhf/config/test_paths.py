"""Names of files: what they may be, and which file may be replaced."""

import os
from pathlib import Path

import pytest

from rlhf.config.paths import path_name, refuse_strangers, user_path
from rlhf.errors import UserError


@pytest.mark.parametrize("name", ["", "  ", "~no-such-user-here/x", "x" * 256, "d/" * 2100 + "x"])
def test_a_name_that_is_no_place_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"empty|no user|too long"):
        path_name(name)
    with pytest.raises(UserError, match="is no path"):
        user_path(name)


@pytest.mark.parametrize("name", ["x" * 255, "a b", "-x", "./~x", "[a]*?", "\u00fc\n"])
def test_any_other_name_is_itself(name: str) -> None:
    assert path_name(name) == name


def test_only_a_file_of_its_own_kind_is_replaced(tmp_path: Path) -> None:
    page, thesis, folder = tmp_path / "page", tmp_path / "thesis.tex", tmp_path / "folder"
    page.write_text("<kind>old")
    thesis.write_text("years")
    folder.mkdir()
    (tmp_path / "link").symlink_to(thesis)
    os.mkfifo(tmp_path / "pipe")
    refuse_strangers(page, b"<kind>", "page")
    refuse_strangers(tmp_path / "new" / "page", b"<kind>", "page")
    for name in ("thesis.tex", "folder", "link", "pipe", "thesis.tex/page"):
        with pytest.raises(UserError, match=r"is there already|is a folder|cannot be written"):
            refuse_strangers(tmp_path / name, b"<kind>", "page")
    assert thesis.read_text() == "years"
