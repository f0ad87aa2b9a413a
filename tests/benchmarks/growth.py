"""Growth of time and memory with the corpus: 1, 4 and 16 GB of text, each prepared by a whole
process.

    python tests/benchmarks/growth.py [--gigabytes 1 4 16] [--workers 2] [--folder
    /tmp/codegen-bench]

The smaller corpora are the first files of the largest. Time is linear if the seconds per gigabyte
are constant. Memory is the peak resident memory of all processes, sampled ten times a second; a
page that two processes share counts twice. The largest corpus takes 5 GB of disk, and 30 GB during
its preparation. Needs `data/`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from corpus import generate
from preparation import FILE_BYTES, build_benchmark_tokenizer, run_process


def main() -> None:
    """Prepare each size and print its time and memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/codegen-bench"))
    arguments = parser.parse_args()
    build_benchmark_tokenizer(arguments.folder / "tokenizer")
    for gigabytes in arguments.gigabytes:
        files = generate(arguments.folder / "corpus", gigabytes * 10**9, file_bytes=FILE_BYTES)
        duration_s, peak_mb = run_process("codegen", files, arguments.folder, arguments.workers)
        print(
            f"{gigabytes} GB {duration_s:.1f} s, {duration_s / gigabytes:.1f} s per GB, peak "
            f"{peak_mb:,.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
