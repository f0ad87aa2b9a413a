"""Data validation with Great Expectations: suites for raw corpora and for prepared shards.

`raw.validate_raw` runs before preparation, `prepared.validate_prepared` before training. Rules are
data (`suites/*.json`, one Great Expectations suite per file); their limits are `ValidationConfig`.
"""
