"""The limit of quarantined records, and its error."""

from __future__ import annotations

import pytest

from components.core.errors import RecordError
from components.data.sources.config import QuarantineConfig
from components.data.sources.quarantine import (
    QuarantinedRecord,
    check_quarantine_limit,
    require_readable_records,
)

ONE_IN_A_HUNDRED = QuarantineConfig(max_quarantined_fraction=0.01)


@pytest.mark.parametrize(("num_quarantined", "num_read"), [(0, 0), (0, 10), (1, 100), (10, 1000)])
def test_bad_records_up_to_the_limit_are_accepted(num_quarantined, num_read):
    check_quarantine_limit(num_quarantined, num_read, [], ONE_IN_A_HUNDRED)


@pytest.mark.parametrize(("num_quarantined", "num_read"), [(1, 1), (1, 99), (11, 1000)])
def test_error_above_the_limit_quotes_the_first_bad_records(num_quarantined, num_read):
    examples = [
        QuarantinedRecord(f"{number}.jsonl", number, "not JSON: end of data", "{")
        for number in range(9)
    ]
    with pytest.raises(
        RecordError, match=f"{num_quarantined:,} of {num_read:,} records are quarantined"
    ) as error:
        check_quarantine_limit(num_quarantined, num_read, examples, ONE_IN_A_HUNDRED)
    assert error.value.got.count("not JSON") == 5
    assert "4.jsonl, 4: not JSON: end of data: '{'" in error.value.got
    assert error.value.expected == "at most 1.000% of them"


def test_limit_of_zero_rejects_a_single_bad_record():
    with pytest.raises(RecordError):
        check_quarantine_limit(1, 10**9, [], QuarantineConfig(max_quarantined_fraction=0.0))


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("not an object: list", "jq -c"),
        ("not JSON: end of data", "jq -c"),
        ("no text: text is missing or null", "set `text`"),
        ("no language: neither", "fixed_language"),
        ("Git LFS pointer", "git lfs pull"),
        ("too long: a line of 9 bytes", "max_record_bytes"),
        ("NUL character: at character 0", "exclude those files"),
    ],
)
def test_error_of_the_limit_names_the_fix_of_the_most_frequent_reason(reason, fix):
    other = QuarantinedRecord("b.jsonl", 9, "half a surrogate pair: at character 3", "")
    examples = [other, *[QuarantinedRecord("a.jsonl", 0, reason, "")] * 2]
    with pytest.raises(RecordError) as error:
        check_quarantine_limit(3, 3, examples, ONE_IN_A_HUNDRED)
    assert fix in error.value.fix


def test_nothing_readable_names_the_most_frequent_reason_and_a_place():
    example = QuarantinedRecord("a.json", 0, "not an object: list", "[{")
    other = QuarantinedRecord("b.json", 7, "not JSON: end of data", "{")
    counts = {"not JSON": 1, "not an object": 2}
    with pytest.raises(RecordError, match="no record of mono can be read") as error:
        require_readable_records("mono", 0, counts, {}, [other, example])
    assert "'not an object' (2), as in a.json, 0: not an object: list" in error.value.got
    require_readable_records("mono", 1, counts, {}, [other, example])


@pytest.mark.parametrize("skipped", [{}, {"language": 12, "blank line": 3}])
def test_skipped_or_absent_records_are_named_as_the_cause(skipped):
    with pytest.raises(RecordError) as error:
        require_readable_records("mono", 0, {}, skipped, [])
    expected = "all 15 were skipped (language 12, blank line 3)" if skipped else "files are empty"
    assert expected in error.value.got
