from __future__ import annotations

import pytest
from pydantic import model_validator

from components.core.config import Config, ListOrTuple, Seed
from components.core.errors import ConfigError


class Seeded(Config):
    seed: Seed = 0


class Sizes(Config):
    sizes: ListOrTuple[int] = ()
    named: dict[str, int] = {}  # noqa: RUF012


class Stage(Config):
    steps: int = 10
    rate: float = 1e-3
    name: str = "nl"


class Training(Config):
    stage: Stage = Stage()
    sizes: ListOrTuple[int] = (1, 2)


def test_an_override_reaches_a_nested_field() -> None:
    changed = Training().override(["stage.steps=200", "stage.name=multi", "sizes=[3,4]"])
    assert changed == Training(stage=Stage(steps=200, name="multi"), sizes=(3, 4))


def test_a_misspelt_field_suggests_the_closest_field() -> None:
    with pytest.raises(ConfigError, match=r"stage\.step'(.|\n)*did you mean 'stage\.steps'"):
        Training().override(["stage.step=200"])


def test_a_misspelt_field_in_a_document_suggests_the_closest_field() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'stage\.steps'"):
        Training.parse({"stage": {"setps": 1}})


@pytest.mark.parametrize(
    "assignment",
    ['stage.steps="200"', "stage.steps=2.0", "stage.steps=true", "stage.rate=NaN", "stage=1"],
)
def test_values_are_strictly_typed(assignment: str) -> None:
    with pytest.raises(ConfigError, match="stage"):
        Training().override([assignment])


@pytest.mark.parametrize(
    "value", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, "9" * 5000], ids=range(3)
)
def test_an_unreadable_value_is_quoted_in_part(value: str) -> None:
    with pytest.raises(ConfigError, match=r"stage\.steps is '[\[9]{299}\.\.\.") as error:
        Training().override([f"stage.steps={value}"])
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("seed", "is_valid"), [(0, True), (2**63 - 1, True), (-1, False), (2**63, False)]
)
def test_a_seed_has_a_range(seed: int, is_valid: bool) -> None:
    if is_valid:
        assert Seeded.parse({"seed": seed}).seed == seed
        return
    with pytest.raises(ConfigError, match="seed") as error:
        Seeded.parse({"seed": seed})
    assert error.value.expected == "an integer from 0 to 9223372036854775807"
    schema = Seeded.model_json_schema()["properties"]["seed"]
    assert (schema["minimum"], schema["maximum"]) == (0, 2**63 - 1)


def test_an_integer_that_no_tensor_can_hold_is_refused() -> None:
    for value in (2**63 - 1, 1 - 2**63):
        assert Sizes(sizes=(value,), named={"a": value}).sizes == (value,)
        assert Training().override([f"stage.steps={value}"]).stage.steps == value
    for value in (2**63, -(2**63)):
        with pytest.raises(ConfigError, match="sizes"):
            Sizes.parse({"sizes": [1, value]})
        with pytest.raises(ConfigError, match="named"):
            Sizes.parse({"named": {"a": value}})
        with pytest.raises(ConfigError, match="steps") as error:
            Training().override([f"stage.steps={value}"])
        assert "9,223,372,036,854,775,807" in error.value.expected


def test_an_override_needs_an_equals_sign() -> None:
    with pytest.raises(ConfigError, match="has no '='"):
        Training().override(["stage.steps"])


def test_an_override_below_a_plain_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"stage\.steps\.more"):
        Training().override(["stage.steps.more=1"])


def test_replace_validates() -> None:
    assert Stage().replace(steps=3).steps == 3
    with pytest.raises(ConfigError):
        Stage().replace(steps="3")


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Stage().steps = 3  # type: ignore[misc]


class Window(Config):
    first: int
    last: int
    name: str = "n" * 500

    @model_validator(mode="after")
    def _is_ordered(self) -> Window:
        if self.first > self.last:
            raise ValueError("first at most last")
        return self


def test_an_error_of_a_rule_names_only_the_fields_of_the_rule() -> None:
    with pytest.raises(ConfigError) as refused:
        Window.parse({"first": 3, "last": 2, "name": "unconcerned"})
    error = refused.value
    assert (error.got, error.expected) == (
        "Window: the config has first 3, last 2",
        "first at most last",
    )
    assert error.fix == "change first or last"
