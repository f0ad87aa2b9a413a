"""Complete data preparation against datatrove: zstd input, the paper's filters, exact dedup,
tokens, shuffle, shards.

    python tests/benchmarks/preparation.py [--megabytes 1000] [--runs 3] [--workers 2] [--folder
    /tmp/codegen-bench]

Both read the same kind of files with the same filter bounds, tokenizer (CodeGen's, all merges) and
number of workers. Each run is a whole process, and the two alternate. datatrove reads a part of the
files (`--datatrove-files`), because it takes ten minutes per gigabyte; rates are per document and
per byte of raw text. This project also decontaminates and verifies its tokens. Needs `data/`.
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


def build_benchmark_tokenizer(folder: Path) -> Path:
    """Build CodeGen's tokenizer in a folder, if it is not there yet."""
    from components.tokenizer.config import TokenizerConfig
    from components.tokenizer.vocabulary import build_tokenizer

    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        build_tokenizer(VOCABULARY, TokenizerConfig(), folder)
    return folder


def prepare_with_codegen(files: list[str], tokenizer: Path, out: Path, workers: int) -> None:
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
            benchmark="humaneval",
            problem=problem.task_id,
            text=problem.prompt + problem.canonical_solution,
        )
        for problem in load_humaneval()
    ]
    counts = prepare_corpus(
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
    print(json.dumps(counts))


def prepare_with_datatrove(files: list[str], tokenizer: Path, out: Path, workers: int) -> None:
    """Prepare with datatrove.

    Its reader, the same filter bounds as a LambdaFilter, its exact dedup, tokenizer and shuffle.
    """
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
        return [JsonlReader(str(source)), LambdaFilter(passes_filters)]

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


def passes_filters(document: Any) -> bool:
    """Apply the paper's filters to one document, in plain Python."""
    lines = document.text.removesuffix("\n").split("\n")
    if not document.text or max(map(len, lines)) > 1000 or sum(map(len, lines)) / len(lines) >= 100:
        return False
    return sum(character in "0123456789abcdefABCDEF" for character in document.text) <= 0.9 * len(
        document.text
    )


PREPARATIONS = {"codegen": prepare_with_codegen, "datatrove": prepare_with_datatrove}


def measure(arguments: list[str]) -> tuple[float, float]:
    """Run this script; return wall seconds and the peak resident MB of its process tree."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, __file__, *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    peak = [0.0]
    sampler = threading.Thread(target=_sample_memory, args=(process.pid, peak), daemon=True)
    sampler.start()
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{output}")
    return time.perf_counter() - started, peak[0]


def _sample_memory(pid: int, peak: list[float]) -> None:
    """Record the largest sum of resident memory, which includes pages of mapped files."""
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
    """Measure both and print the rates, or run as a measured process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--datatrove-files", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/codegen-bench"))
    parser.add_argument("--only", choices=list(PREPARATIONS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--files", nargs="*")
    arguments = parser.parse_args()
    if arguments.only:
        run = PREPARATIONS[arguments.only]
        run(
            arguments.files,
            build_benchmark_tokenizer(arguments.folder / "tokenizer"),
            arguments.out,
            arguments.workers,
        )
        return
    paths = generate(
        arguments.folder / "corpus", arguments.megabytes * 10**6, file_bytes=FILE_BYTES
    )
    build_benchmark_tokenizer(arguments.folder / "tokenizer")
    inputs = {"codegen": paths, "datatrove": paths[: arguments.datatrove_files]}
    sizes = {name: _count_documents(files) for name, files in inputs.items()}
    rates: dict[str, list[float]] = {name: [] for name in inputs}
    for _ in range(arguments.runs):
        for name, files in inputs.items():
            documents, size = sizes[name]
            duration_s, peak_mb = run_process(name, files, arguments.folder, arguments.workers)
            rates[name].append(documents / duration_s)
            print(
                f"{name} {size / 1e6:,.0f} MB {duration_s:.1f} s "
                f"{size / 1e6 / duration_s:.2f} MB/s, "
                f"peak {peak_mb:,.0f} MB",
                flush=True,
            )
    documents, size = sizes["codegen"]
    speed = statistics.median(rates["codegen"]) * size / documents / 1e6 / arguments.workers
    pairs = zip(rates["codegen"], rates["datatrove"], strict=True)
    ratios = [codegen / datatrove for codegen, datatrove in pairs]
    print(
        f"codegen {speed:.1f} MB/s per core (median); documents/s relative to datatrove: "
        f"{statistics.median(ratios):.1f}",
        end="",
    )
    print(f" ({min(ratios):.1f} to {max(ratios):.1f})")


def run_process(name: str, files: list[Path], folder: Path, workers: int) -> tuple[float, float]:
    """Prepare files in a new process; return wall seconds and peak resident MB."""
    out = folder / f"out-{name}"
    shutil.rmtree(out, ignore_errors=True)
    arguments = [
        "--only",
        name,
        "--out",
        str(out),
        "--folder",
        str(folder),
        "--workers",
        str(workers),
    ]
    return measure([*arguments, "--files", *map(str, files)])


def _count_documents(files: list[Path]) -> tuple[int, int]:
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
