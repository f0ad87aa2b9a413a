"""The identity of a config: what its hash covers, and that a new field with a default changes no
hash."""

from __future__ import annotations

import json
import types
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import pytest
from fixtures.golden_identity import Default, product_configs
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, create_model

from components.core.config import SCHEMA_VERSIONS, Config, ListOrTuple, all_values, default_values
from components.core.fingerprint import canonical_json, fingerprint
from flows.settings.execution import Execution
from flows.settings.recipes import RECIPES, Recipe

# -- one config


class Left(Config):
    kind: Literal["left"] = "left"
    size: int = 1


class Right(Config):
    kind: Literal["right"] = "right"
    size: int = 1


class Inner(Config):
    number: int = 1
    share: float = Field(default=0, ge=0)


class Outer(Config):
    name: str
    value: int | float | bool | None = 1
    items: ListOrTuple[int] = (1, 2)
    table: dict[str, int] = Field(default_factory=lambda: {"a": 1})
    inner: Inner = Inner(number=5)
    several: ListOrTuple[Inner] = ()
    by_name: dict[str, Inner] = Field(default_factory=dict)
    choice: Left | Right = Field(default=Left(), discriminator="kind")


def test_identity_is_the_fields_without_a_default_and_those_that_differ_from_it() -> None:
    assert Outer(name="a").identity() == {"name": "a"}
    assert Outer.parse(
        {"name": "a", "items": [1, 2], "table": {"a": 1}, "inner": {"number": 5, "share": 0}}
    ).identity() == {"name": "a"}
    changed = Outer(
        name="a",
        items=(3,),
        inner=Inner(share=0.5),
        several=(Inner(), Inner(number=2)),
        by_name={"x": Inner()},
    )
    assert changed.identity() == {
        "name": "a",
        "items": [3],
        "inner": {"share": 0.5},
        "several": [{}, {"number": 2}],
        "by_name": {"x": {}},
    }


def test_a_field_without_a_default_counts_even_as_none() -> None:
    class Required(Config):
        value: int | None

    assert Required(value=None).identity() == {"value": None}


def test_the_same_identity_is_hashed_wherever_the_config_is() -> None:
    config = Outer(name="a", inner=Inner())
    assert canonical_json(config) == '{"inner":{},"name":"a"}'
    assert canonical_json({"of": [(config,)], "b": 1}) == '{"b":1,"of":[[{"inner":{},"name":"a"}]]}'


def test_numbers_of_another_type_are_another_value() -> None:
    texts = {
        canonical_json(Outer(name="a", value=value))
        for value in (1, 1.0, True, 0.0, -0.0, 0, False, None)
    }
    assert len(texts) == 8
    assert canonical_json(Outer(name="a", value=True)) == '{"name":"a","value":true}'


def test_members_of_a_union_never_have_the_same_identity() -> None:
    assert Left().identity() == {"kind": "left"}
    assert Outer(name="a", choice=Right()).identity() == {"name": "a", "choice": {"kind": "right"}}
    assert len({canonical_json(one) for one in (Left(), Right(), Left(size=2), Right(size=2))}) == 4


def test_a_field_that_is_reset_does_not_count() -> None:
    assert Outer(name="a", items=(3,), value=2).reset("items").identity() == {
        "name": "a",
        "value": 2,
    }
    with pytest.raises(KeyError, match="itms"):
        Outer(name="a").reset("itms")


numbers = st.sampled_from([0, 1, 2])
inners = st.builds(Inner, number=numbers, share=st.sampled_from([0.0, -0.0, 0.5]))
outers = st.builds(
    Outer,
    name=st.sampled_from(["a", "b"]),
    value=st.sampled_from([0, 1, 0.0, -0.0, 1.0, False, True, None]),
    items=st.lists(numbers, max_size=2).map(tuple),
    table=st.dictionaries(st.sampled_from(["a", "b"]), numbers, max_size=2),
    inner=inners | st.just(Inner(number=5)),
    several=st.lists(inners, max_size=2).map(tuple),
    by_name=st.dictionaries(st.sampled_from(["a", "b"]), inners, max_size=1),
    choice=st.builds(Left, size=numbers) | st.builds(Right, size=numbers),
)


@given(outers, outers, st.sampled_from(sorted(Outer.model_fields)))
def test_identities_are_equal_if_and_only_if_all_values_are(
    one: Outer, other: Outer, field: str
) -> None:
    """`near` differs from `one` in one field at most, so that both cases occur."""
    near = one.model_copy(update={field: getattr(other, field)})
    for second in (other, near):
        is_equal = json.dumps(all_values(one), sort_keys=True) == json.dumps(
            all_values(second), sort_keys=True
        )
        assert (canonical_json(one) == canonical_json(second)) == is_equal


# -- schema versions


class Raised(Config):
    schema_version: ClassVar[int] = 2
    number: int = 1


class Holder(Config):
    omitted: Raised = Raised()
    table: dict[str, ListOrTuple[Raised]] = Field(default_factory=lambda: {"a": (Raised(),)})
    other: Inner = Inner()


class Unaffected(Config):
    none: Raised | None = None


def test_a_raised_schema_version_changes_every_hash_with_an_instance_inside() -> None:
    versions = {SCHEMA_VERSIONS: {"Raised": 2}}
    assert Raised().identity() == versions
    assert Holder().identity() == versions
    assert Holder(omitted=Raised(number=3)).identity() == {"omitted": {"number": 3}, **versions}
    assert json.loads(canonical_json({"a": [Holder()]})) == {"a": [versions]}
    assert Unaffected().identity() == {}


# -- every config of the product


def test_no_two_config_classes_have_the_same_name() -> None:
    """Schema versions and the golden file are listed by the name of the class."""
    names = [owner.__name__ for owner in product_configs()]
    assert len(names) > 60
    assert sorted(set(names)) == names


def test_every_union_of_configs_has_a_discriminator() -> None:
    for owner in product_configs():
        for name, field in owner.model_fields.items():
            for members in _unions(field.annotation):
                kinds = [_discriminators(member) for member in members]
                assert set.intersection(*kinds), (
                    f"{owner.__name__}.{name}: {members} need a field like kind: Literal['x']"
                )


def _unions(annotation: Any) -> list[list[type[Config]]]:
    """Return the config classes of each union inside an annotation, if it has several."""
    args = get_args(annotation)
    members = [arg for arg in args if isinstance(arg, type) and issubclass(arg, Config)]
    is_union = get_origin(annotation) in (Union, types.UnionType) and len(members) > 1
    return ([members] if is_union else []) + [union for arg in args for union in _unions(arg)]


def _discriminators(member: type[Config]) -> set[str]:
    annotations = {name: field.annotation for name, field in member.model_fields.items()}
    return {
        name
        for name, one in annotations.items()
        if get_origin(one) is Literal and len(get_args(one)) == 1
    }


def test_a_union_without_a_discriminator_is_recognised() -> None:
    assert _unions(dict[str, tuple[Inner | Left | None, ...]]) == [[Inner, Left]]
    assert not set.intersection(_discriminators(Inner), _discriminators(Left))
    assert set.intersection(_discriminators(Right), _discriminators(Left)) == {"kind"}


def test_a_new_field_with_a_default_changes_the_hash_of_no_config() -> None:
    for owner in product_configs():
        required = {
            name: {"digest": "d"}
            for name, field in owner.model_fields.items()
            if field.is_required()
        }
        values = {**default_values(owner), **required}
        later = create_model(owner.__name__, __base__=owner, added=(int, 7))
        before, after = owner.model_construct(**values), later.model_construct(**values, added=7)
        assert fingerprint(after) == fingerprint(before), owner
        assert fingerprint(later.model_construct(**values, added=8)) != fingerprint(before), owner


_LATER: dict[type[Config], type[Config]] = {}
"""The classes that `_later` has extended; the recipes share theirs."""


@pytest.mark.parametrize(
    "config", [Execution(), *(make() for make in RECIPES.values())], ids=["execution", *RECIPES]
)
def test_new_fields_in_all_nested_configs_at_once_do_not_change_the_hash(config: Config) -> None:
    later = _later(type(config), _LATER).parse(config.model_dump())
    assert later.added == 7  # type: ignore[attr-defined]
    assert later.data.added == 7  # type: ignore[attr-defined]
    if isinstance(config, Recipe):
        assert later.data.corpora["mono"].filters.added == 7  # type: ignore[attr-defined]
        assert later.training.stages["nl"].added == 7  # type: ignore[attr-defined]
    assert fingerprint(later) == fingerprint(config)
    assert fingerprint(later.replace(added=8)) != fingerprint(config)


def _later(owner: type[Config], known: dict[type[Config], type[Config]]) -> type[Config]:
    """Return the class with one field more, in it and in every config class that its fields
    mention.

    Args:
        known: the classes that were extended already; it is filled.
    """
    if owner not in known:
        defaults = default_values(owner)
        fields: dict[str, Any] = {}
        for name, field in owner.model_fields.items():
            annotation = _later_type(field.annotation, known)
            if annotation != field.annotation:
                default = (
                    Default(value=defaults[name]).model_dump()["value"] if name in defaults else ...
                )
                fields[name] = (
                    Annotated[annotation, *field.metadata] if field.metadata else annotation,
                    default,
                )
        fields["added"] = (int, 7)
        known[owner] = create_model(owner.__name__, __base__=owner, **fields)  # type: ignore[call-overload]
    return known[owner]


def _later_type(annotation: Any, known: dict[type[Config], type[Config]]) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return _later(annotation, known)
    args = get_args(annotation)
    later = tuple(_later_type(arg, known) for arg in args)
    if later == args:
        return annotation
    origin = get_origin(annotation)
    if origin is types.UnionType:
        return Union[later]  # noqa: UP007 - the members are known at run time only
    return Annotated[later] if origin is Annotated else origin[later]
