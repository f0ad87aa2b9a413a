"""Raw sources of any documented kind in, Arrow batches of records out, with a quarantine for what is broken.

`config` says what a source is, `partitions` lists the units of work, `reading` reads one of them, `quarantine` decides
whether what was bad is still tolerable. One module per format: `jsonl`, `parquet`, `avro`, `files`, `archive`.
"""
