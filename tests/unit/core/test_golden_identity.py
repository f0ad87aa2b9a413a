"""Defaults and recipe hashes are those of the golden files; `fixtures.golden_identity` has the
command that writes them."""

from __future__ import annotations

import copy
import json

from fixtures.golden_identity import (
    COMMAND,
    DEFAULTS,
    HASHES,
    config_defaults,
    recipe_hashes,
    unversioned_changes,
)


def test_a_changed_default_has_a_raised_schema_version() -> None:
    assert not unversioned_changes(json.loads(DEFAULTS.read_text()), config_defaults())


def test_the_golden_file_has_every_default() -> None:
    assert json.loads(DEFAULTS.read_text()) == config_defaults(), (
        f"fields or classes are new or gone; fix: run `{COMMAND}`"
    )


def test_the_recipes_have_their_golden_hashes() -> None:
    golden, current = json.loads(HASHES.read_text()), recipe_hashes()
    assert current == golden, (
        "a hash changed, so users rebuild everything that has it; fix: undo the change, or if it "
        f"is meant (of a recipe, a schema_version or a CODE_VERSION), run `{COMMAND}`"
    )


def test_the_error_of_a_changed_default_names_the_field_and_the_fix() -> None:
    golden = {"Filters": {"schema_version": 1, "defaults": {"longest": 1000, "share": 0.5}}}
    assert unversioned_changes(golden, golden) == []
    changed = copy.deepcopy(golden)
    changed["Filters"]["defaults"]["longest"] = 1000.0  # type: ignore[index]
    (error,) = unversioned_changes(golden, changed)
    assert "Filters.longest changed from 1000 to 1000.0" in error
    assert "fix: set Filters.schema_version to 2, then run `" in error
    changed["Filters"]["schema_version"] = 2
    assert unversioned_changes(golden, changed) == []
    (error,) = unversioned_changes(changed, golden)
    assert "fell from 2 to 1" in error


def test_new_and_removed_fields_and_classes_need_no_new_schema_version() -> None:
    golden = {
        "Filters": {"schema_version": 1, "defaults": {"gone": 1}},
        "Gone": {"schema_version": 1, "defaults": {}},
    }
    current = {
        "Filters": {"schema_version": 1, "defaults": {"new": 2}},
        "New": {"schema_version": 1, "defaults": {}},
    }
    assert unversioned_changes(golden, current) == []
