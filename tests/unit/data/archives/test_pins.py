"""Pins of archives and their extraction rules."""

from __future__ import annotations

import pytest
from fixtures.archives import build_archives

from components.core.errors import ConfigError, FetchError
from components.data.archives.pins import ExtractionRule, Pins, load_pins
from components.data.config import DataConfig

LANGUAGES = {name: corpus.languages for name, corpus in DataConfig().corpora.items()}


@pytest.mark.parametrize("preset", ["starter", "tiny"])
def test_each_preset_covers_all_languages_of_all_corpora(preset):
    rules = [rule for package in load_pins().packages_of(preset) for rule in package.rules]
    languages_by_corpus = {
        corpus: {rule.language for rule in rules if rule.corpus == corpus} for corpus in LANGUAGES
    }
    assert languages_by_corpus == {
        corpus: set(languages) for corpus, languages in LANGUAGES.items()
    }


@pytest.mark.parametrize(
    ("path", "is_selected"),
    [
        ("src/a.py", True),
        ("src/deep/er/a.py", True),  # "*" crosses folders
        ("a.py", False),
        ("src/a.PY", False),  # case counts
        ("src/tests/a.py", False),  # excluded
        ("src/a.pyc", False),
    ],
)
def test_rule_matches_the_path_below_the_top_folder(path, is_selected):
    rule = ExtractionRule.parse(
        {"corpus": "mono", "language": "Python", "include": ["src/*.py"], "exclude": ["*/tests/*"]}
    )
    assert rule.selects(path) is is_selected


def test_preset_without_pins_is_rejected_with_the_known_presets(fixture_archives):
    with pytest.raises(FetchError) as caught:
        fixture_archives.pins.packages_of("starter")
    assert "no archive is pinned for the preset 'starter'" in caught.value.got
    assert "tiny" in caught.value.expected


def test_pin_without_sha256_is_rejected_with_the_field_name(fixture_archives):
    plain = fixture_archives.pins.model_dump()
    del plain["packages"][0]["sha256"]
    with pytest.raises(ConfigError, match=r"packages\.0\.sha256 is missing"):
        Pins.parse(plain)


def test_recipe_hash_depends_only_on_the_pins_of_the_preset(fixture_archives):
    pins = fixture_archives.pins
    shuffled = pins.replace(packages=[package.model_dump() for package in reversed(pins.packages)])
    assert shuffled.recipe_hash("tiny") == pins.recipe_hash("tiny")

    other_package = pins.packages[0].replace(presets=["starter"], name="other")
    extended = Pins(packages=(*pins.packages, other_package), vocabulary=pins.vocabulary)
    assert extended.recipe_hash("tiny") == pins.recipe_hash("tiny")

    changed = Pins(
        packages=(pins.packages[0].replace(sha256="0" * 64), *pins.packages[1:]),
        vocabulary=pins.vocabulary,
    )
    assert changed.recipe_hash("tiny") != pins.recipe_hash("tiny")


def test_fixture_archives_are_deterministic(fixture_archives, tmp_path):
    assert build_archives(tmp_path) == fixture_archives.pins
