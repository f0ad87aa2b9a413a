"""A small run, published in a real store, whose every figure can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import JsonValue

from components.core.artifact import Artifact, Kind
from components.core.files import write_json, write_jsonl
from components.core.store import Store
from components.dataset.manifests import REJECTS_SCHEMA
from components.evaluation.report import RegisteredVersion, RunResults

LANGUAGES = {"nl": ("English",), "multi": ("C", "Go"), "mono": ("Python",)}
DVC_MD5 = "0123456789abcdef0123456789abcdef.dir"
NUM_IDS = 1024  # log2 is 10: a uniform guess costs 10 bits a token.
HOSTILE = '    \x1b[2J</code></pre><script src="https://example.org/x.js">alert(1)</script>\n    return [red]x[/red] & y\n'
PROMPT = 'def f(x: int) -> bool:\n    """ x < 3 """\n'

BITS = {
    "nl": {
        "nl/English": 2.5,
        "multi/C": 4.0,
        "multi/Go": 3.5,
        "mono/Python": 3.0,
        "humaneval/canonical": 3.2,
    },
    "multi": {
        "nl/English": 2.75,
        "multi/C": 2.0,
        "multi/Go": 2.5,
        "mono/Python": 2.0,
        "humaneval/canonical": 2.1,
    },
    "mono": {
        "nl/English": 3.0,
        "multi/C": 2.25,
        "multi/Go": 3.0,
        "mono/Python": 1.5,
        "humaneval/canonical": 1.4,
    },
}
"""Bits per byte after each stage. Every split has 400 bytes in 200 tokens: a uniform guess is 5 bits a byte."""

LOSSES = {"nl": (6.0, 4.0), "multi": (5.0, 3.0), "mono": (3.5, 2.0)}
"""Two steps of 100 tokens per stage."""


class Run:
    """Builds the artifacts of a run; each part can be made otherwise before `results` is asked for."""

    def __init__(
        self,
        root: Path,
        killed: Collection[str] = (),
        rejects: Sequence[Mapping[str, JsonValue]] = (),
        statistics: Mapping[str, JsonValue] | None = None,
        quarantine: Sequence[Mapping[str, JsonValue]] = (),
    ) -> None:
        """`killed`: names of artifacts whose first attempt is broken off, so that a second one has to go on.
        `rejects`: rows of every corpus's table of rejected documents. `statistics`: what every corpus counts besides.
        `quarantine`: the records of every corpus that cannot be read."""
        self.killed, self.rejects, self.statistics, self.quarantine = (
            killed,
            list(rejects),
            statistics or {},
            quarantine,
        )
        self.store = Store(root / "store")
        self.bits: dict[str, dict[str, float]] = {stage: dict(row) for stage, row in BITS.items()}
        self.raw = {name: _raw(name) for name in ("nl", "multi", "mono", "vocabulary")}
        self.tokenizer = self.make(
            "tokenizer", "gpt2", {"vocabulary": self.raw["vocabulary"]}, _tokenizer
        )
        self.prepared = {corpus: self._prepare(corpus) for corpus in LANGUAGES}
        self.checkpoints: dict[str, Artifact] = {}
        for stage in LANGUAGES:
            self.checkpoints[stage] = self._train(stage)

    def make(
        self, kind: Kind, name: str, parents: Mapping[str, Artifact], build: Callable[[Path], Any]
    ) -> Artifact:
        def attempt(build: Callable[[Path], Any]) -> Artifact:
            return self.store.get_or_build(
                kind,
                name,
                config={"name": name},
                parents=parents,
                code_version=1,
                build=build,
                resumable=True,
            ).artifact

        if name in self.killed:
            with suppress(KeyboardInterrupt):
                attempt(_kill)
        return attempt(build)

    def _prepare(self, corpus: str) -> Artifact:
        def build(folder: Path) -> Mapping[str, JsonValue]:
            write_json(folder / "index.json", {"corpus": corpus, "num_ids": NUM_IDS})
            pq.write_table(
                pa.Table.from_pylist(self.rejects, schema=REJECTS_SCHEMA),
                folder / "rejects.parquet",
            )
            write_jsonl(folder / "quarantine.jsonl", self.quarantine)
            languages: dict[str, JsonValue] = {
                language: figures(language) for language in LANGUAGES[corpus]
            }
            return {"languages": languages, **self.statistics}

        return self.make(
            "prepared-corpus", corpus, {"raw": self.raw[corpus], "tokenizer": self.tokenizer}, build
        )

    def _train(self, stage: str) -> Artifact:
        def build(folder: Path) -> Mapping[str, JsonValue]:
            (folder / "config.json").write_text(f'"{stage}"')
            write_jsonl(
                folder / "observed" / "metrics.jsonl",
                [step(i, loss) for i, loss in enumerate(LOSSES[stage], 1)],
            )
            return {"steps": 2, "tokens": 200, "num_parameters": 5_000_000}

        before = {"initial": list(self.checkpoints.values())[-1]} if self.checkpoints else {}
        return self.make(
            "checkpoint", f"tiny-{stage}", {"corpus": self.prepared[stage], **before}, build
        )

    def evaluate(self, stage: str) -> Artifact:
        def build(folder: Path) -> Mapping[str, JsonValue]:
            rows = self.bits[stage].items()
            splits = {
                name: {"bits_per_byte": bits, "num_bytes": 400, "num_tokens": 200}
                for name, bits in rows
            }
            write_json(folder / "results.json", {"splits": splits})
            return {}

        return self.make(
            "evaluation",
            f"tiny-{stage}-bits-per-byte",
            {"checkpoint": self.checkpoints[stage]},
            build,
        )

    def results(self, **values: Any) -> RunResults:
        bits = {(stage, "bits-per-byte"): self.evaluate(stage) for stage in self.bits}
        given: dict[str, Any] = {
            "recipe": "tiny",
            "raw": self.raw,
            "tokenizer": self.tokenizer,
            "prepared": self.prepared,
            "checkpoints": self.checkpoints,
            "evaluations": bits,
            "total_s": 754.0,
            "made_by": {
                "created_at": "2031-02-03T04:05:06+00:00",
                "git_commit": "f" * 40,
                "git_dirty": False,
                "host": "here",
            },
        }
        return RunResults(**{**given, **values})


def figures(language: str) -> dict[str, JsonValue]:
    """A language's row of the corpus table; Go has twice of everything, so that sums can be told from copies."""
    times = 2 if language == "Go" else 1
    return {
        "raw_documents": 100 * times,
        "raw_bytes": 1_000_000 * times,
        "rejected": {"digits": 2 * times, "line length": 3 * times},
        "duplicates": 5 * times,
        "documents": 90 * times,
        "bytes": 900_000 * times,
        "train_tokens": 250_000 * times,
        "held_out_tokens": 2_500 * times,
    }


def step(number: int, loss: float) -> dict[str, JsonValue]:
    """One line of the trainer's metrics."""
    rates = {
        "learning_rate": 0.001 * number,
        "tokens_per_s": 50.0 * number,
        "mfu": 0.2 * number,
        "peak_flops": 1.5e11,
    }
    return {
        "step": number,
        "loss": loss,
        "tokens": 100 * number,
        "elapsed_s": 2.0 * number,
        "grad_norm": 1.0,
        **rates,
    }


def version(
    stage: str, *, promoted: bool = True, alias: str | None = "champion", why: str = ""
) -> RegisteredVersion:
    reasons = (why,) if why else ()
    return RegisteredVersion(
        name=f"tiny-{stage}", version="3", promoted=promoted, reasons=reasons, alias=alias
    )


def _raw(name: str) -> Artifact:
    """As `components.data.raw_corpus` describes what lies in data/: not in the store."""
    sign = {"nl": "a", "multi": "b", "mono": "c", "vocabulary": "d"}[name]
    return Artifact(
        kind="raw-corpus",
        name=name,
        address=f"/data/{name}",
        recipe_hash=sign * 64,
        digest=sign * 64,
        statistics={"num_files": 1, "num_documents": 100, "size_bytes": 1_000_000},
        provenance={"dvc_md5": DVC_MD5},
    )


def _kill(_: Path) -> None:
    raise KeyboardInterrupt


def _tokenizer(folder: Path) -> Mapping[str, JsonValue]:
    (folder / "tokenizer.json").write_text("{}")
    return {}
