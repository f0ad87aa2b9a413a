"""Raw sources: lists files as partitions and reads partitions as Arrow batches of records.

`config` defines a source, `partitions` lists units of work, `partition_reader` reads a unit,
`records` defines the fields of a record. Each format has a module: `jsonl`, `parquet`, `avro`,
`code_files`, `archive`.

A record that cannot be read (`records.QUARANTINE_REASONS`) does not stop a run: it is
quarantined, that is returned apart from the others with its position and reason.
"""
