"""Paths and names from outside never lead out of their folder."""

from __future__ import annotations

import ntpath
import os
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from components.core.artifact import Artifact
from components.core.errors import ConfigError
from components.core.paths import require_file_name, require_relative_path, resolve_inside

SPECIAL = ["..", ".", "", "/", "\\", "\0", "\n", "C:", "~", "a", "..a", "a..", "ä", "\ud800", " "]
PATHS = st.lists(st.sampled_from(SPECIAL) | st.text(max_size=3), max_size=6).flatmap(
    lambda parts: st.sampled_from(["/".join(parts), "".join(parts), "\\".join(parts)])
)


@given(PATHS)
@example("/etc/passwd")
@example("a/../../b")
@example("a/b/../c")
@example("C:/x")
@example("C:x")
@example("..\\x")
@example("a//b")
@example("a/")
@example("a" * 256)
def test_an_accepted_path_stays_in_its_folder_on_every_system(path: str) -> None:
    try:
        accepted = require_relative_path(path)
    except ValueError:
        return
    assert accepted == path == os.path.normpath(path)
    root = "/store/artifact"
    assert os.path.normpath(os.path.join(root, path)) == f"{root}/{path}"
    windows = PureWindowsPath("D:\\store") / path
    assert ntpath.normpath(windows).startswith("D:\\store\\")
    assert not any(ord(character) < 32 for character in path)
    os.fsencode(path)


@given(st.lists(st.from_regex(r"[a-z0-9_.-]{1,20}", fullmatch=True), min_size=1, max_size=4))
def test_ordinary_paths_are_accepted(parts: list[str]) -> None:
    path = "/".join(parts)
    if {".", ".."} & set(parts):
        with pytest.raises(ValueError, match="stays in its folder"):
            require_relative_path(path)
    else:
        assert require_relative_path(path) == path


@pytest.mark.parametrize("name", ["a/b", "", ".", "..", "a\\b", "a\0b", "/", "x" * 256])
def test_a_path_is_no_file_name(name: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        require_file_name(name)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "out").symlink_to(tmp_path)
    (folder / "in").symlink_to(folder / "inner")
    assert resolve_inside(folder, "in/new/x") == folder / "in" / "new" / "x"
    for path in ("out", "out/x", "out/folder/../x", "../x"):
        with pytest.raises(ValueError, match=r"leaves|stays in its folder"):
            resolve_inside(folder, path)


@pytest.mark.parametrize(
    "values",
    [
        {"name": "../x"},
        {"digest": "../../../x"},
        {"recipe_hash": "../../../x"},
        {"files": [["../x", 1, "0" * 64]]},
        {"files": [["a\nb", 1, "0" * 64]]},
    ],
)
def test_an_artifact_has_only_paths_below_its_folder(values: dict[str, object]) -> None:
    valid = {
        "kind": "checkpoint",
        "name": "nl",
        "address": "/store/checkpoint/nl",
        "recipe_hash": "1" * 64,
        "digest": "2" * 64,
        "files": [["a/b.bin", 1, "0" * 64]],
    }
    Artifact.parse(valid)
    with pytest.raises(ConfigError, match="is not a"):
        Artifact.parse({**valid, **values})
