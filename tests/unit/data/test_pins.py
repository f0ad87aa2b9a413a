"""The list of archives, and the rules that select their members."""

from __future__ import annotations

import pytest
from fixtures.archives import build_archives

from components.core.errors import ConfigError, FetchError
from components.data.archives.pins import ExtractionRule, Pins, load_pins
from components.data.config import LANGUAGES


@pytest.mark.parametrize("preset", ["starter", "tiny"])
def test_every_preset_has_sources_for_every_language_of_every_corpus(preset):
    rules = [rule for package in load_pins().packages_of(preset) for rule in package.rules]
    found = {
        corpus: {rule.language for rule in rules if rule.corpus == corpus} for corpus in LANGUAGES
    }
    assert found == {corpus: set(languages) for corpus, languages in LANGUAGES.items()}


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
def test_a_rule_matches_the_path_below_the_top_folder(path, is_selected):
    rule = ExtractionRule.parse(
        {"corpus": "mono", "language": "Python", "include": ["src/*.py"], "exclude": ["*/tests/*"]}
    )
    assert rule.selects(path) is is_selected


def test_a_preset_without_pins_is_refused_and_the_others_are_named(fixture_archives):
    with pytest.raises(FetchError) as caught:
        fixture_archives.pins.of("starter")
    assert "no archive is pinned for the preset 'starter'" in caught.value.got
    assert "tiny" in caught.value.expected


def test_a_pin_without_a_hash_is_refused_by_name(fixture_archives):
    plain = fixture_archives.pins.model_dump()
    del plain["packages"][0]["sha256"]
    with pytest.raises(ConfigError, match=r"packages\.0\.sha256 is no value"):
        Pins.parse(plain)


def test_the_recipe_follows_the_pins_of_the_preset_and_nothing_else(fixture_archives):
    pins = fixture_archives.pins
    shuffled = pins.replace(packages=[package.model_dump() for package in reversed(pins.packages)])
    assert shuffled.recipe("tiny") == pins.recipe("tiny")

    other = pins.packages[0].replace(presets=["starter"], name="other")
    more = Pins(packages=(*pins.packages, other), vocabulary=pins.vocabulary)
    assert more.recipe_hash("tiny") == pins.recipe("tiny")

    changed = Pins(
        packages=(pins.packages[0].replace(sha256="0" * 64), *pins.packages[1:]),
        vocabulary=pins.vocabulary,
    )
    assert changed.recipe_hash("tiny") != pins.recipe("tiny")


def test_fixture_archives_have_the_same_bytes_every_time(fixture_archives, tmp_path):
    assert build_archives(tmp_path) == fixture_archives.pins
