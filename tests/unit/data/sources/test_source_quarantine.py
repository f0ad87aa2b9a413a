"""The limit of bad records, and its error."""

from __future__ import annotations

import pytest

from components.core.errors import RecordError
from components.data.sources.config import QuarantineConfig
from components.data.sources.quarantine import QuarantinedRecord, check_quarantine_limit

ONE_IN_A_HUNDRED = QuarantineConfig(max_bad_fraction=0.01)


@pytest.mark.parametrize(("num_bad", "num_read"), [(0, 0), (0, 10), (1, 100), (10, 1000)])
def test_bad_records_up_to_the_limit_are_accepted(num_bad, num_read):
    check_quarantine_limit(num_bad, num_read, [], ONE_IN_A_HUNDRED)


@pytest.mark.parametrize(("num_bad", "num_read"), [(1, 1), (1, 99), (11, 1000)])
def test_error_above_the_limit_quotes_the_first_bad_records(num_bad, num_read):
    examples = [
        QuarantinedRecord(f"{number}.jsonl", number, "not JSON: end of data", "{")
        for number in range(9)
    ]
    with pytest.raises(
        RecordError, match=f"{num_bad:,} of {num_read:,} records are quarantined"
    ) as error:
        check_quarantine_limit(num_bad, num_read, examples, ONE_IN_A_HUNDRED)
    assert error.value.got.count("not JSON") == 5
    assert "4.jsonl, 4: not JSON: end of data: '{'" in error.value.got
    assert error.value.expected == "at most 1.000% of them"


def test_limit_of_zero_rejects_a_single_bad_record():
    with pytest.raises(RecordError):
        check_quarantine_limit(1, 10**9, [], QuarantineConfig(max_bad_fraction=0.0))
