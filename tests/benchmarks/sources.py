"""Reading raw sources: MB/s of text on one core, plain and compressed JSON Lines, Parquet and Avro,
and the peak of memory.

    python tests/benchmarks/sources.py [--megabytes 200] [--runs 3]

Documents are 10 kB of this project's Python, each with another first line. Rates use processor
time, which the load of the machine changes little. Prints the median and range of MB/s.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from components.data.sources.config import Source
from components.data.sources.partition_reader import read_partition
from components.data.sources.partitions import list_partitions

DOCUMENT_BYTES = 10_000
_SCHEMA = {
    "type": "record",
    "name": "file",
    "fields": [{"name": name, "type": "string"} for name in ("path", "content")],
}


def documents(num_bytes: int) -> Iterator[dict[str, str]]:
    """Yield rows of about `num_bytes` in total."""
    code = "".join(path.read_text() for path in sorted(Path("components").rglob("*.py")))
    for number in range(num_bytes // DOCUMENT_BYTES):
        start = number * 7919 % (len(code) - DOCUMENT_BYTES)
        yield {
            "path": f"{number}.py",
            "content": f"# {number}\n{code[start : start + DOCUMENT_BYTES]}",
        }


def write(folder: Path, num_bytes: int) -> None:
    """Write the same rows in every format."""
    rows = list(documents(num_bytes))
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor(level=3).compress(lines))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines, 6))
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=2000)
    with (folder / "a.avro").open("wb") as file:
        fastavro.writer(file, _SCHEMA, rows, codec="deflate")


def rate(uri: str) -> float:
    """Return MB of text per second of processor time."""
    (partition,) = list_partitions([Source(uri=uri)])
    started, num_bytes = time.process_time(), 0
    for batch in read_partition(partition, ["Python"]):
        num_bytes += batch.records["text"].nbytes
    return num_bytes / 1e6 / (time.process_time() - started)


def main() -> None:
    """Print the rate of each format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), arguments.megabytes * 1_000_000)
        for file in ("a.jsonl", "a.jsonl.zst", "a.jsonl.gz", "a.parquet", "a.avro"):
            rates = sorted(rate(f"{name}/{file}") for _ in range(arguments.runs))
            print(
                f"{file:<12} {statistics.median(rates):7.1f} MB/s  ({rates[0]:.1f} .. "
                f"{rates[-1]:.1f})"
            )
    print(
        "peak of memory, writing included: "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:,.0f} MB"
    )


if __name__ == "__main__":
    main()
