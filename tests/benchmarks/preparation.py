"""Preparation end to end, against datatrove: zstd input, the paper's filters, exact dedup, tokens,
shuffle, shards.

    python tests/benchmarks/preparation.py [--megabytes 1000] [--runs 3] [--workers 2] [--folder
    /tmp/codegen-bench]

Both get the same kind of files, the same filter bounds, the same tokenizer (CodeGen's, all merges)
and as many workers. Each run is a whole process, from start to end, and they take turns. datatrove
reads a part of the files (`--peer-files`), since it takes ten minutes a gigabyte; rates are per
document and per byte of raw text. Ours decontaminates and proves its tokens besides. Needs `data/`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))

from corpus import generate

CONTEXT_LENGTH = 2048
FILE_BYTES = 64 * 10**6
END = "<|endoftext|>"
VOCABULARY = Path("data/vocabulary/gpt2.tiktoken")


def tokenizer_in(folder: Path) -> Path:
    """CodeGen's tokenizer, built once."""
    from components.tokenizer.config import TokenizerConfig
    from components.tokenizer.vocabulary import build_tokenizer

    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        build_tokenizer(VOCABULARY, TokenizerConfig(), folder)
    return folder


def ours(files: list[str], tokenizer: Path, out: Path, workers: int) -> None:
    """Prepare with this project."""
    from components.data.config import DataConfig, DataExecution
    from components.data.filters.decontamination import BenchmarkText
    from components.data.sources.config import Source
    from components.evaluation.benchmarks.humaneval import load_humaneval
    from components.preparation.corpus_pipeline import prepare_corpus
    from components.tokenizer.config import TokenizerConfig

    out.mkdir(parents=True)
    benchmarks = [
        BenchmarkText(
            benchmark="humaneval", problem=one.task_id, text=one.prompt + one.canonical_solution
        )
        for one in load_humaneval()
    ]
    found = prepare_corpus(
        out,
        sources=[Source(uri=file) for file in files],
        corpus="mono",
        data=DataConfig(),
        tokenizer_folder=tokenizer,
        tokenizer=TokenizerConfig(),
        context_length=CONTEXT_LENGTH,
        seed=0,
        execution=DataExecution(num_workers=workers),
        benchmarks=benchmarks,
    )
    print(json.dumps(found))


def peer(files: list[str], tokenizer: Path, out: Path, workers: int) -> None:
    """Prepare with datatrove: its reader, our filters' bounds as a LambdaFilter, its exact dedup,
    tokenizer and shuffle."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        ExactDedupConfig,
        ExactDedupFilter,
        ExactDedupSignature,
        ExactFindDedups,
    )
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer, DocumentTokenizerMerger

    source = out / "input"
    source.mkdir(parents=True)
    for file in files:
        (source / Path(file).name).symlink_to(file)
    dedup = ExactDedupConfig(content_getter=lambda document: document.text.encode())

    def read() -> list[Any]:
        return [JsonlReader(str(source)), LambdaFilter(keep)]

    tasks = len(files)
    stages = [
        (
            [*read(), ExactDedupSignature(str(out / "signatures"), config=dedup, finder_workers=1)],
            tasks,
        ),
        ([ExactFindDedups(str(out / "signatures"), str(out / "duplicates"), config=dedup)], 1),
        (
            [
                *read(),
                ExactDedupFilter(str(out / "duplicates"), config=dedup),
                DocumentTokenizer(
                    str(out / "tokens"), str(tokenizer / "tokenizer.json"), eos_token=END
                ),
            ],
            tasks,
        ),
        (
            [
                DocumentTokenizerMerger(
                    str(out / "tokens"), str(out / "shards"), save_filename="train"
                )
            ],
            1,
        ),
    ]
    for number, (pipeline, num_tasks) in enumerate(stages):
        LocalPipelineExecutor(
            pipeline, tasks=num_tasks, workers=workers, logging_dir=str(out / f"logs-{number}")
        ).run()


def keep(document: Any) -> bool:
    """The paper's filters on one document, as a person would write them."""
    lines = document.text.removesuffix("\n").split("\n")
    if not document.text or max(map(len, lines)) > 1000 or sum(map(len, lines)) / len(lines) >= 100:
        return False
    return sum(character in "0123456789abcdefABCDEF" for character in document.text) <= 0.9 * len(
        document.text
    )


def measured(arguments: list[str]) -> tuple[float, float]:
    """Wall seconds, and the peak of the resident MB of the process with all its children."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, __file__, *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
    watcher.start()
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{output}")
    return time.perf_counter() - started, peak[0]


def _watch(pid: int, peak: list[float]) -> None:
    """Keep the largest sum of resident memory; pages of mapped files count, too."""
    while psutil.pid_exists(pid):
        total = 0
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        peak[0] = max(peak[0], total / 1e6)
        time.sleep(0.1)


def main() -> None:
    """Measure and print, or be one of the measured processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peer-files", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/codegen-bench"))
    parser.add_argument("--be", choices=["ours", "peer"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--files", nargs="*")
    given = parser.parse_args()
    if given.be:
        run = {"ours": ours, "peer": peer}[given.be]
        run(given.files, tokenizer_in(given.folder / "tokenizer"), given.out, given.workers)
        return
    paths = generate(given.folder / "corpus", given.megabytes * 10**6, file_bytes=FILE_BYTES)
    tokenizer_in(given.folder / "tokenizer")
    inputs = {"ours": paths, "peer": paths[: given.peer_files]}
    sizes = {name: _counted(files) for name, files in inputs.items()}
    rates: dict[str, list[float]] = {name: [] for name in inputs}
    for _ in range(given.runs):
        for name, files in inputs.items():
            documents, size = sizes[name]
            took, peak = whole_process(name, files, given.folder, given.workers)
            rates[name].append(documents / took)
            print(
                f"{name} {size / 1e6:,.0f} MB {took:.1f} s {size / 1e6 / took:.2f} MB/s, peak "
                f"{peak:,.0f} MB",
                flush=True,
            )
    documents, size = sizes["ours"]
    speed = statistics.median(rates["ours"]) * size / documents / 1e6 / given.workers
    ratios = [ours / peer for ours, peer in zip(rates["ours"], rates["peer"], strict=True)]
    print(
        f"ours {speed:.1f} MB/s a core (median); documents/s, ours over datatrove's: "
        f"{statistics.median(ratios):.1f}",
        end="",
    )
    print(f" ({min(ratios):.1f} to {max(ratios):.1f})")


def whole_process(name: str, files: list[Path], folder: Path, workers: int) -> tuple[float, float]:
    """Run one of the two on some files: wall seconds, and peak resident MB."""
    out = folder / f"out-{name}"
    shutil.rmtree(out, ignore_errors=True)
    arguments = [
        "--be",
        name,
        "--out",
        str(out),
        "--folder",
        str(folder),
        "--workers",
        str(workers),
    ]
    return measured([*arguments, "--files", *map(str, files)])


def _counted(files: list[Path]) -> tuple[int, int]:
    import zstandard

    documents = size = 0
    for path in files:
        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                documents += 1
                size += len(json.loads(line)["text"].encode())
    return documents, size


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
