"""Generate a corpus of any size from the starter corpus, with fresh noise.

    python tests/benchmarks/corpus.py FOLDER --megabytes 1000 [--file-megabytes 64] [--seed 0]

Each file repeats the documents of data/mono in a random order until it is full. In each copy a line
of words drawn from the document follows every tenth line. So no two copies have the same content,
words and lengths are those of real code, and no cache can serve a document twice. One copy in
twenty gets no noise and is a true duplicate. Files are JSON Lines, zstd level 3, of equal size,
written by one process per core. The same arguments give the same bytes, and a larger corpus begins
with the files of a smaller one.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import random
import re
from collections.abc import Iterator
from pathlib import Path

import zstandard

STARTER = Path("data/mono")
_NOISE_INTERVAL_LINES = 10
_DUPLICATE_SHARE = 1 / 20
_WORD = re.compile(r"[A-Za-z_]{3,}")


def generate(folder: Path, num_bytes: int, *, file_bytes: int, seed: int = 0) -> list[Path]:
    """Write files whose texts have about `num_bytes` bytes in total; return their paths.

    Existing files are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [
        folder / f"part-{number:05d}.jsonl.zst" for number in range(-(-num_bytes // file_bytes))
    ]
    missing = [
        (path, file_bytes, f"{seed}:{number}")
        for number, path in enumerate(paths)
        if not path.exists()
    ]
    with multiprocessing.Pool() as pool:
        pool.starmap(_write, missing, chunksize=1)
    return paths


def _write(path: Path, num_bytes: int, seed: str) -> None:
    documents = _documents(seed)
    partial = path.with_suffix(".partial")
    with zstandard.open(
        partial, "wt", encoding="utf-8", cctx=zstandard.ZstdCompressor(level=3), newline="\n"
    ) as file:
        while num_bytes > 0:
            record = next(documents)
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            num_bytes -= len(record["text"].encode())
    partial.rename(path)


@functools.cache
def _originals() -> list[tuple[dict[str, str], list[str]]]:
    """Each document with its words."""
    documents = [
        json.loads(line)
        for path in sorted(STARTER.glob("*.jsonl"))
        for line in path.open(encoding="utf-8")
    ]
    if not documents:
        raise SystemExit(
            f"{STARTER} has no documents: run `codegen data pull` in this folder first"
        )
    return [
        (document, sorted(set(_WORD.findall(document["text"]))) or ["x"]) for document in documents
    ]


def _documents(seed: str) -> Iterator[dict[str, str]]:
    rng = random.Random(seed)  # noqa: S311 - noise, no secret
    for copy in itertools.count():
        for document, words in rng.sample(_originals(), len(_originals())):
            text = document["text"]
            if rng.random() >= _DUPLICATE_SHARE:
                text = _add_noise(text, words, rng)
            source = f"{document['source']} copy {seed}:{copy}"
            yield {**document, "text": text, "source": source}


def _add_noise(text: str, words: list[str], rng: random.Random) -> str:
    lines = text.split("\n")
    for index in range(0, len(lines), _NOISE_INTERVAL_LINES):
        indent = re.match(r"\s*", lines[index])[0][:40]  # type: ignore[index]  # matches anything
        lines[index] += (
            f"\n{indent}{'_'.join(rng.choices(words, k=2))[:40]} = "
            f"{' + '.join(rng.choices(words, k=3))[:60]}"
        )
    return "\n".join(lines)


def main() -> None:
    """Generate a corpus and print its size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--file-megabytes", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    paths = generate(
        arguments.folder,
        arguments.megabytes * 10**6,
        file_bytes=arguments.file_megabytes * 10**6,
        seed=arguments.seed,
    )
    print(f"{len(paths)} files, {sum(path.stat().st_size for path in paths) / 1e6:,.0f} MB on disk")


if __name__ == "__main__":
    main()
