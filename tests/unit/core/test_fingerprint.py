from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.fingerprint import canonical_json, digest_of_files, fingerprint, list_files

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain)
def test_canonical_json_is_lossless(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_fingerprint_ignores_the_order_of_keys(value: dict[str, int]) -> None:
    assert fingerprint(value) == fingerprint(dict(reversed(value.items())))


def test_the_fingerprint_is_sha256_of_sorted_compact_json() -> None:
    expected = hashlib.sha256(b'{"a":[1,2.5,null],"b":"\xc3\xa9"}').hexdigest()
    assert fingerprint({"b": "é", "a": (1, 2.5, None)}) == expected


@pytest.mark.parametrize(
    "value", [{1, 2}, Path("x"), float("nan"), float("inf"), {1: "a"}, b"x", object()]
)
def test_a_value_without_a_canonical_form_is_refused_with_its_path(value: object) -> None:
    with pytest.raises(TypeError, match=r"\$\.deep"):
        fingerprint({"deep": value})


def test_the_digest_depends_on_names_and_bytes_only(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder / "sub").mkdir(parents=True)
    (tmp_path / "one/a").write_bytes(b"1")
    (tmp_path / "one/sub/b").write_bytes(b"2")
    (tmp_path / "two/sub/b").write_bytes(b"2")
    (tmp_path / "two/a").write_bytes(b"1")
    one, two = list_files(tmp_path / "one"), list_files(tmp_path / "two")
    assert one == two
    by_hand = "".join(
        f"{name}\0{1}\0{hashlib.sha256(content).hexdigest()}\n"
        for name, content in [("a", b"1"), ("sub/b", b"2")]
    )
    assert digest_of_files(one) == hashlib.sha256(by_hand.encode()).hexdigest()
    (tmp_path / "two/a").rename(tmp_path / "two/c")
    assert digest_of_files(list_files(tmp_path / "two")) != digest_of_files(one)
