"""Redaction: planted secrets of several kinds are replaced, everything else is kept byte for byte."""

from __future__ import annotations

import base64
import random
import string

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.filters.redaction import KINDS, Kind, RedactionConfig, redact

ON = RedactionConfig(enabled=True)


def drawn(alphabet: str, length: int, seed: int) -> str:
    generator = random.Random(seed)  # noqa: S311 - has to be the same every time
    return "".join(generator.choice(alphabet) for _ in range(length))


# Made here, so that no secret stands in the repository; none of them has ever been one.
ALPHANUMERIC = string.ascii_letters + string.digits
GITHUB = "ghp_" + drawn(ALPHANUMERIC, 36, 1)
STRIPE = "sk_live_" + drawn(string.ascii_letters, 24, 2)
SLACK = "xoxb-123456789012-1234567890123-" + drawn(string.ascii_letters, 24, 3)
AWS_ID = "AKIA" + drawn(string.ascii_uppercase + "234567", 16, 4)
AWS_SECRET = drawn(ALPHANUMERIC + "/+", 40, 5)
KEY_BODY = drawn(ALPHANUMERIC + "/+", 400, 6)
PRIVATE_KEY = f"-----BEGIN RSA PRIVATE KEY-----\n{KEY_BODY}\n-----END RSA PRIVATE KEY-----"
HIDDEN = base64.b64encode(f"token = {GITHUB}".encode()).decode()


def column(*texts: str) -> pa.LargeStringArray:
    return pa.array(texts, type=pa.large_string())


def one(text: str, *kinds: Kind) -> tuple[str, dict[Kind, int]]:
    found = redact(column(text), RedactionConfig(enabled=True, kinds=kinds or KINDS))
    return found.texts[0].as_py(), {
        kind: int(count[0]) for kind, count in found.counts.items() if count[0]
    }


@pytest.mark.parametrize(
    "secret",
    [GITHUB, STRIPE, SLACK, PRIVATE_KEY, HIDDEN],
    ids=["github", "stripe", "slack", "private-key", "in-base64"],
)
def test_a_secret_is_replaced_and_its_surroundings_are_not(secret: str) -> None:
    text = f'# caf\u00e9 \u4e16\r\ntoken = "{secret}"  # \U0001f600\n'
    assert one(text) == ('# caf\u00e9 \u4e16\r\ntoken = "<SECRET>"  # \U0001f600\n', {"secret": 1})


def test_both_halves_of_a_pair_are_replaced() -> None:
    text = 'aws_access_key_id = "{}"\naws_secret_access_key = "{}"\n'
    assert one(text.format(AWS_ID, AWS_SECRET)) == (
        text.format("<SECRET>", "<SECRET>"),
        {"secret": 2},
    )


def test_half_of_a_pair_alone_is_kept() -> None:
    """Kingfisher calls it no credential: without the rest of the pair any 40 characters might be meant."""
    text = f'aws_secret_access_key = "{AWS_SECRET}"\n'
    assert one(text) == (text, {})


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("write to jane.doe+x@corp.co.uk.", "write to <EMAIL>."),
        ("<Jane@Corp.com>,bob@x-y.org", "<<EMAIL>>,<EMAIL>"),
        ("\u00e9jane@corp.com", "\u00e9<EMAIL>"),
        ("host 93.184.216.34:80", "host <IP_ADDRESS>:80"),
        ("[2606:2800:220:1:248:1893:25c8:1946]", "[<IP_ADDRESS>]"),
        ("dns 2606:4700::1, 93.184.216.34.", "dns <IP_ADDRESS>, <IP_ADDRESS>."),
    ],
)
def test_personal_data_is_replaced(text: str, redacted: str) -> None:
    found, counts = one(text)
    assert found == redacted
    assert sum(counts.values()) == redacted.count("<EMAIL>") + redacted.count("<IP_ADDRESS>")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "def f(x):\n    return x[1::2] @ y.T\n",
        "@app.route\n@property\n",
        "a@b",
        "user@example.com, user@mail.example.org, user@corp.example",
        "root@localhost root@host.invalid root@host.local",
        "127.0.0.1 10.0.0.1 192.168.1.1 0.0.0.0 255.255.255.255 224.0.0.1",
        "1.2.3 1.2.3.4.5 v1.2.3.4 300.1.2.3 1.2.3.4rc1",
        "::1 fe80::1 2001:db8::1 12:30:45 2024:01:02:03:04:05:06:07:08:09",
        "sha256 = e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "password = getpass()",
    ],
)
def test_what_is_neither_is_kept(text: str) -> None:
    assert one(text) == (text, {})


@settings(deadline=None)
@given(
    texts=st.lists(
        st.text(alphabet=st.characters(codec="utf-8", exclude_characters="@.:"), max_size=40),
        max_size=4,
    )
)
def test_a_column_without_finds_is_returned_as_it_is(texts: list[str]) -> None:
    given_column = column(*texts)
    found = redact(given_column, ON)
    assert found.texts is given_column
    assert all(not counts.any() for counts in found.counts.values())


PIECES = st.sampled_from(
    ["jane@corp.com", "93.184.216.34", "2606:4700::1", "x", "\u00e9", ".", ":", "@", "\n", GITHUB]
)


@settings(deadline=None)
@given(text=st.lists(PIECES, max_size=12).map(" ".join))
def test_a_second_time_finds_nothing_more(text: str) -> None:
    once, counts = one(text)
    assert once.count("<SECRET>") == counts.get("secret", 0)
    assert once.count("<EMAIL>") == counts.get("email", 0)
    assert once.count("<IP_ADDRESS>") == counts.get("ip_address", 0)
    assert one(once) == (once, {})


def test_counts_belong_to_their_text_and_kinds_can_be_chosen() -> None:
    texts = column("nothing", "jane@corp.com bob@corp.com", f"{GITHUB} jane@corp.com", "")
    both = redact(texts, ON)
    assert both.texts.to_pylist() == ["nothing", "<EMAIL> <EMAIL>", "<SECRET> <EMAIL>", ""]
    assert {kind: counts.tolist() for kind, counts in both.counts.items()} == {
        "secret": [0, 0, 1, 0],
        "email": [0, 2, 1, 0],
        "ip_address": [0, 0, 0, 0],
    }
    emails = redact(texts[1:], RedactionConfig(enabled=True, kinds=("email",)))
    assert emails.texts.to_pylist() == ["<EMAIL> <EMAIL>", f"{GITHUB} <EMAIL>", ""]
    assert list(emails.counts) == ["email"]


def test_finds_that_overlap_become_one_secret() -> None:
    """The password in an address of a database, before an @ and a domain, has the shape of an e-mail address as well."""
    text = "postgres://admin:{}db.corp.com:5432/x".format(drawn(ALPHANUMERIC, 16, 9) + "@")
    found, counts = one(text)
    assert counts == {"secret": 1}
    assert found.startswith("postgres://admin:<SECRET>")


def test_it_is_off_by_default() -> None:
    texts = column(GITHUB, "jane@corp.com")
    found = redact(texts, RedactionConfig())
    assert found.texts is texts
    assert found.counts == {}
