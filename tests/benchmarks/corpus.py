"""Generate a corpus of any size from the starter corpus, with fresh noise.

    python tests/benchmarks/corpus.py FOLDER --megabytes 1000 [--file-megabytes 64] [--seed 0]

Every document of data/mono is written again and again. In each copy a line of words drawn from the document itself follows
every tenth line, so no two copies have the same content, the words and lengths are those of real code, and nothing can be
had twice from a cache. One copy in twenty is left without noise: a true duplicate. Files are JSON Lines, zstd level 3, of
equal size. The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import itertools
import json
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
    """Write files whose texts have `num_bytes` bytes together; returns their paths. A folder that holds files is kept."""
    if folder.exists():
        return sorted(folder.glob("*.jsonl.zst"))
    folder.mkdir(parents=True)
    documents = _documents(seed)
    paths, written = [], 0
    for number in itertools.count():
        if written >= num_bytes:
            return paths
        path = folder / f"part-{number:05d}.jsonl.zst"
        with zstandard.open(path, "wt", encoding="utf-8", cctx=zstandard.ZstdCompressor(level=3), newline="\n") as file:
            here = 0
            while here < file_bytes and written + here < num_bytes:
                record = next(documents)
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                here += len(record["text"].encode())
        written += here
        paths.append(path)
    raise AssertionError("counting never ends")


def _documents(seed: int) -> Iterator[dict[str, str]]:
    originals = [json.loads(line) for path in sorted(STARTER.glob("*.jsonl")) for line in path.open(encoding="utf-8")]
    words = [sorted(set(_WORD.findall(one["text"]))) or ["x"] for one in originals]
    for copy in itertools.count():
        chance = random.Random(f"{seed}:{copy}")  # noqa: S311 - noise, no secret
        for one, own in zip(originals, words, strict=True):
            text = one["text"] if chance.random() < _DUPLICATES else _noisy(one["text"], own, chance)
            yield {**one, "text": text, "source": f"{one['source']} copy {copy}"}


def _noisy(text: str, words: list[str], chance: random.Random) -> str:
    lines = text.split("\n")
    for at in range(0, len(lines), _EVERY_LINES):
        indent = re.match(r"\s*", lines[at])[0][:40]  # type: ignore[index]  # matches anything
        lines[at] += f"\n{indent}{'_'.join(chance.choices(words, k=2))[:40]} = {' + '.join(chance.choices(words, k=3))[:60]}"
    return "\n".join(lines)


def main() -> None:
    """Generate and say what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--file-megabytes", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    paths = generate(given.folder, given.megabytes * 10**6, file_bytes=given.file_megabytes * 10**6, seed=given.seed)
    print(f"{len(paths)} files, {sum(path.stat().st_size for path in paths) / 1e6:,.0f} MB on disk")


if __name__ == "__main__":
    main()
