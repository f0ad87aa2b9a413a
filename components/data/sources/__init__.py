"""Raw sources: lists files as partitions and reads partitions as Arrow batches of records.

`config` defines a source, `partitions` lists units of work, `partition_reader` reads a unit and
quarantines bad records, `records` defines the fields of a record. Each format has a module:
`jsonl`, `parquet`, `avro`, `code_files`, `archive`.
"""
