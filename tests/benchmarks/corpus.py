"""Generate a corpus of any size from the starter corpus, with fresh noise.

    python tests/benchmarks/corpus.py FOLDER --megabytes 1000 [--file-megabytes 64] [--seed 0]

Every file takes the documents of data/mono in an order of its own, again and again until it is
full. In each copy a line of words drawn from the document itself follows every tenth line, so no
two copies have the same content, the words and lengths are those of real code, and nothing can be
had twice from a cache. One copy in twenty is left without noise: a true duplicate of all such
copies. Files are JSON Lines, zstd level 3, of equal size, written by as many processes as there are
cores. The same arguments give the same bytes, and a larger corpus begins with the files of a
smaller one.
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
_EVERY_LINES = 10
_DUPLICATES = 1 / 20
_WORD = re.compile(r"[A-Za-z_]{3,}")


def generate(folder: Path, num_bytes: int, *, file_bytes: int, seed: int = 0) -> list[Path]:
    """Write files whose texts have `num_bytes` bytes together, about; returns their paths. Files
    that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [
        folder / f"part-{number:05d}.jsonl.zst" for number in range(-(-num_bytes // file_bytes))
    ]
    work = [
        (path, file_bytes, f"{seed}:{number}")
        for number, path in enumerate(paths)
        if not path.exists()
    ]
    with multiprocessing.Pool() as pool:
        pool.starmap(_write, work, chunksize=1)
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
    return [(one, sorted(set(_WORD.findall(one["text"]))) or ["x"]) for one in documents]


def _documents(seed: str) -> Iterator[dict[str, str]]:
    chance = random.Random(seed)  # noqa: S311 - noise, no secret
    for copy in itertools.count():
        for one, words in chance.sample(_originals(), len(_originals())):
            text = (
                one["text"] if chance.random() < _DUPLICATES else _noisy(one["text"], words, chance)
            )
            yield {**one, "text": text, "source": f"{one['source']} copy {seed}:{copy}"}


def _noisy(text: str, words: list[str], chance: random.Random) -> str:
    lines = text.split("\n")
    for at in range(0, len(lines), _EVERY_LINES):
        indent = re.match(r"\s*", lines[at])[0][:40]  # type: ignore[index]  # matches anything
        lines[at] += (
            f"\n{indent}{'_'.join(chance.choices(words, k=2))[:40]} = "
            f"{' + '.join(chance.choices(words, k=3))[:60]}"
        )
    return "\n".join(lines)


def main() -> None:
    """Generate and say what there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--file-megabytes", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    paths = generate(
        given.folder,
        given.megabytes * 10**6,
        file_bytes=given.file_megabytes * 10**6,
        seed=given.seed,
    )
    print(f"{len(paths)} files, {sum(path.stat().st_size for path in paths) / 1e6:,.0f} MB on disk")


if __name__ == "__main__":
    main()
