"""The files of a recipe's benchmarks, identified by SHA-256, and the protocol of each.

HumanEval's file is part of this package. MTPB's is downloaded into a cache. Every other file is
read from a path of the execution config.
"""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from components.core.errors import EvaluationError
from components.core.files import write_atomic
from components.evaluation.benchmarks import humaneval, mtpb
from components.evaluation.benchmarks.custom_benchmark import read_benchmark
from components.evaluation.benchmarks.problem import read_pinned, require_sha256
from components.evaluation.benchmarks.protocol import BenchmarkProtocol
from components.evaluation.config import (
    HUMANEVAL_SHA256,
    MTPB_SHA256,
    BenchmarkConfig,
    EvaluationConfig,
)

MTPB_URL = "https://raw.githubusercontent.com/salesforce/CodeGen/main/codegen1/benchmark/mtpb.jsonl"
_DOWNLOAD_TIMEOUT_S = 20


class BenchmarkFiles(NamedTuple):
    """The files of benchmarks."""

    paths: dict[str, Path]
    """By benchmark, in the order of the names."""
    skipped: dict[str, str]
    """Reason by optional benchmark whose file is missing."""


def find_benchmark_files(
    benchmarks: Mapping[str, BenchmarkConfig], paths: Mapping[str, str], cache: Path
) -> BenchmarkFiles:
    """Find and verify the file of every benchmark; download MTPB's if necessary.

    Args:
        benchmarks: by name.
        paths: paths of files by benchmark; paths of other benchmarks are ignored.
        cache: folder of downloaded files.

    Raises:
        EvaluationError: files of benchmarks that are not optional are missing (one error for all),
            a path does not exist, or a file has another SHA-256.
    """
    files = BenchmarkFiles({}, {})
    missing: dict[str, str] = {}
    for name, benchmark in sorted(benchmarks.items()):
        path, reason = _find_file(name, benchmark.sha256, paths.get(name), cache)
        if path:
            read_pinned(path, benchmark.sha256)
            files.paths[name] = path
        elif benchmark.optional:
            files.skipped[name] = f"{reason}; set {_path_setting(name)}"
        else:
            missing[name] = reason
    if missing:
        raise EvaluationError(
            "; ".join(f"the file of {name} is missing: {missing[name]}" for name in missing),
            expected="; ".join(
                f"{name} with the SHA-256 {benchmarks[name].sha256}" for name in missing
            ),
            fix="; ".join(map(_fix, missing)),
        )
    return files


def _find_file(name: str, sha256: str, path: str | None, cache: Path) -> tuple[Path | None, str]:
    """Return the path of a file that is not verified yet, or None and the reason."""
    if path is not None:
        if not Path(path).is_file():
            raise EvaluationError(
                f"{path} does not exist",
                expected=f"the file of the benchmark {name}",
                fix=f"correct or unset {_path_setting(name)}",
            )
        return Path(path), ""
    if sha256 == HUMANEVAL_SHA256:
        return humaneval.HUMANEVAL_FILE, ""
    if sha256 == MTPB_SHA256:
        return _download_mtpb(cache / "mtpb.jsonl")
    return None, "its path is not set"


def _download_mtpb(file: Path) -> tuple[Path | None, str]:
    """Download MTPB's file unless it exists; return its path, or None and the reason."""
    if file.is_file():
        return file, ""
    try:
        with urllib.request.urlopen(MTPB_URL, timeout=_DOWNLOAD_TIMEOUT_S) as response:
            content = response.read()
        require_sha256(MTPB_URL, content, MTPB_SHA256)
    except EvaluationError as error:
        return None, error.got
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)  # Of a URLError.
        reason = getattr(reason, "strerror", None) or reason
        return None, f"{MTPB_URL} cannot be downloaded ({reason})"
    write_atomic(file, content)
    return file, ""


def _path_setting(name: str) -> str:
    """Return the setting of the path of a benchmark's file, with a placeholder."""
    setting = f"--exec benchmark_files.{name}=FILE"
    return f"CODEGEN_MTPB=FILE or {setting}" if name == "mtpb" else setting


def _fix(name: str) -> str:
    fix = f"set {_path_setting(name)}"
    return f"run `codegen eval fetch` with network access, or {fix}" if name == "mtpb" else fix


def load_protocol(name: str, path: Path, config: EvaluationConfig) -> BenchmarkProtocol:
    """Return the protocol of a benchmark; one that is not in the paper has HumanEval's.

    Raises:
        EvaluationError: the file is not a benchmark.
        ConfigError: a selected problem of MTPB does not exist.
    """
    if name == "humaneval":
        return humaneval.build_protocol(config.humaneval)
    if name == "mtpb":
        return mtpb.build_protocol(config.mtpb, path)
    return humaneval.function_protocol(read_benchmark(path, name), config.humaneval)
