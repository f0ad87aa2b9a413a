"""How much may be bad: the one place that turns a count of bad records into an error.

Design decision: the tolerance is a share of everything that was read, over the whole corpus, so that one broken file of a
thousand small ones is seen in proportion. What is not covered: keeping the bad records, which the caller writes down.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.core.errors import RecordError
from components.data.sources.config import QuarantineConfig
from components.data.sources.record_batches import QuarantinedRecord

_MAX_NAMED = 5
"""Bad records that the error quotes."""


def check_bad_record_limit(
    num_bad: int, num_read: int, examples: Sequence[QuarantinedRecord], config: QuarantineConfig
) -> None:
    """Check the count of bad records against the tolerance.

    Args:
        num_bad: bad records.
        num_read: all records: good, bad, and left out for their language.
        examples: some of the bad ones, for the message.
        config: states the tolerance.

    Raises:
        RecordError: more are bad than the tolerance allows; quotes the first ones.
    """
    if num_bad <= config.max_bad_fraction * num_read:
        return
    quoted = "".join(
        f"\n    {bad.file}, {bad.offset}: {bad.reason}: {bad.excerpt!r}"
        for bad in examples[:_MAX_NAMED]
    )
    raise RecordError(
        f"{num_bad:,} of {num_read:,} records are bad{quoted}",
        expected=f"at most {config.max_bad_fraction:.3%} of them",
        fix="mend or leave out those files, name the fields of their source, or raise data.quarantine.max_bad_fraction",
    )
