"""What must hold before money is spent: Great Expectations suites for raw corpora and for prepared shards.

`raw.validate_raw` stands before preparation, `prepared.validate_prepared` before training. The rules themselves are data:
`suites/*.json`, one Great Expectations suite each; their limits are `ValidationConfig`.
"""
