"""Redaction replaces secrets and personal data and keeps all other text."""

from __future__ import annotations

import base64
import random
import string

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.config import REDACTION_KINDS, RedactionConfig, RedactionKind
from components.data.filters.redaction import redact

ON = RedactionConfig(enabled=True)


def random_text(alphabet: str, length: int, seed: int) -> str:
    generator = random.Random(seed)  # noqa: S311 - deterministic
    return "".join(generator.choice(alphabet) for _ in range(length))


# Generated, so that the repository contains no secret; none of them was ever valid.
ALPHANUMERIC = string.ascii_letters + string.digits
GITHUB = "ghp_" + random_text(ALPHANUMERIC, 36, 1)
STRIPE = "sk_live_" + random_text(string.ascii_letters, 24, 2)
SLACK = "xoxb-123456789012-1234567890123-" + random_text(string.ascii_letters, 24, 3)
AWS_ID = "AKIA" + random_text(string.ascii_uppercase + "234567", 16, 4)
AWS_SECRET = random_text(ALPHANUMERIC + "/+", 40, 5)
KEY_BODY = random_text(ALPHANUMERIC + "/+", 400, 6)
PRIVATE_KEY = f"-----BEGIN RSA PRIVATE KEY-----\n{KEY_BODY}\n-----END RSA PRIVATE KEY-----"
HIDDEN = base64.b64encode(f"token = {GITHUB}".encode()).decode()


def column(*texts: str) -> pa.LargeStringArray:
    return pa.array(texts, type=pa.large_string())


def redact_text(text: str, *kinds: RedactionKind) -> tuple[str, dict[RedactionKind, int]]:
    result = redact(column(text), RedactionConfig(enabled=True, kinds=kinds or REDACTION_KINDS))
    return result.texts[0].as_py(), {
        kind: int(count[0]) for kind, count in result.counts.items() if count[0]
    }


@pytest.mark.parametrize(
    "secret",
    [GITHUB, STRIPE, SLACK, PRIVATE_KEY, HIDDEN],
    ids=["github", "stripe", "slack", "private-key", "in-base64"],
)
def test_secret_is_replaced_and_other_text_is_unchanged(secret: str) -> None:
    text = f'# caf\u00e9 \u4e16\r\ntoken = "{secret}"  # \U0001f600\n'
    assert redact_text(text) == (
        '# caf\u00e9 \u4e16\r\ntoken = "<SECRET>"  # \U0001f600\n',
        {"secret": 1},
    )


def test_both_parts_of_a_pair_are_replaced() -> None:
    text = 'aws_access_key_id = "{}"\naws_secret_access_key = "{}"\n'
    assert redact_text(text.format(AWS_ID, AWS_SECRET)) == (
        text.format("<SECRET>", "<SECRET>"),
        {"secret": 2},
    )


def test_single_part_of_a_pair_is_kept() -> None:
    """Without the access key id, Kingfisher does not report 40 arbitrary characters."""
    text = f'aws_secret_access_key = "{AWS_SECRET}"\n'
    assert redact_text(text) == (text, {})


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
    result, counts = redact_text(text)
    assert result == redacted
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
def test_other_text_is_kept(text: str) -> None:
    assert redact_text(text) == (text, {})


@settings(deadline=None)
@given(
    texts=st.lists(
        st.text(alphabet=st.characters(codec="utf-8", exclude_characters="@.:"), max_size=40),
        max_size=4,
    )
)
def test_column_without_findings_is_returned_itself(texts: list[str]) -> None:
    given_column = column(*texts)
    result = redact(given_column, ON)
    assert result.texts is given_column
    assert all(not counts.any() for counts in result.counts.values())


PIECES = st.sampled_from(
    ["jane@corp.com", "93.184.216.34", "2606:4700::1", "x", "\u00e9", ".", ":", "@", "\n", GITHUB]
)


@settings(deadline=None)
@given(text=st.lists(PIECES, max_size=12).map(" ".join))
def test_redaction_is_idempotent(text: str) -> None:
    once, counts = redact_text(text)
    assert once.count("<SECRET>") == counts.get("secret", 0)
    assert once.count("<EMAIL>") == counts.get("email", 0)
    assert once.count("<IP_ADDRESS>") == counts.get("ip_address", 0)
    assert redact_text(once) == (once, {})


def test_counts_are_per_text_and_kinds_can_be_selected() -> None:
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


def test_overlapping_spans_become_a_single_secret() -> None:
    """A password in a database URL, before an @ and a domain, also matches as e-mail address."""
    text = "postgres://admin:{}db.corp.com:5432/x".format(random_text(ALPHANUMERIC, 16, 9) + "@")
    result, counts = redact_text(text)
    assert counts == {"secret": 1}
    assert result.startswith("postgres://admin:<SECRET>")


def test_redaction_is_off_by_default() -> None:
    texts = column(GITHUB, "jane@corp.com")
    result = redact(texts, RedactionConfig())
    assert result.texts is texts
    assert result.counts == {}
