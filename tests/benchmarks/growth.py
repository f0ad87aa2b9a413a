"""How time and memory grow with the corpus: 1, 4 and 16 GB of text, prepared by one whole process
each.

    python tests/benchmarks/growth.py [--gigabytes 1 4 16] [--workers 2] [--folder
    /tmp/codegen-bench]

The smaller corpora are the first files of the largest. Time is linear when seconds a gigabyte stay
the same. Memory is the peak of the resident memory of all processes, sampled ten times a second; a
page that two of them share counts twice. The largest corpus takes 5 GB of disk, and 30 GB while it
is prepared. Needs `data/`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from corpus import generate
from preparation import FILE_BYTES, tokenizer_in, whole_process


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/codegen-bench"))
    given = parser.parse_args()
    tokenizer_in(given.folder / "tokenizer")
    for gigabytes in given.gigabytes:
        files = generate(given.folder / "corpus", gigabytes * 10**9, file_bytes=FILE_BYTES)
        took, peak = whole_process("ours", files, given.folder, given.workers)
        print(
            f"{gigabytes} GB {took:.1f} s, {took / gigabytes:.1f} s a GB, peak {peak:,.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
