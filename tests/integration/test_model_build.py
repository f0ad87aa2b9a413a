"""The model that ranks build together: its bytes, and the host memory that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixtures.build_probe import SEED, BuildCase, BuiltModel, run_ranks, weights_digest
from fixtures.models import TINY, TOKENIZER, write_tokenizer

from components.model.config import Dtype, ModelConfig
from components.model.huggingface import load_checkpoint, save_checkpoint
from components.model.huggingface.checkpoint_writer import TORCH_DTYPES
from components.model.transformer import CodeGen

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy]

ODD = TINY.replace(num_layers=1, padded_vocab_size=515)
"""Its head has 515 biases, which do not divide over two ranks."""
LARGE = ModelConfig(
    num_layers=7,
    num_heads=12,
    head_dim=64,
    rotary_dim=32,
    context_length=64,
    padded_vocab_size=TOKENIZER.num_ids + 1,
)
"""200 MB: the buffers of two ranks take a tenth."""
MAX_SHARE = 1.2
"""Peak memory of all ranks together over the size of the model (issue 14)."""


def make_cases(checkpoint: Path, large_checkpoint: Path) -> list[BuildCase]:
    cases = [
        BuildCase(
            name=f"ZeRO {stage} {precision} {'stored' if folder else 'new'}",
            model=ODD,
            zero_stage=stage,
            precision=precision,
            checkpoint=folder,
        )
        for stage in (1, 3)
        for precision in ("fp32", "bf16")
        for folder in (None, str(checkpoint))
    ]
    large = BuildCase(name="large new", model=LARGE)
    stored = BuildCase(name="large stored", model=LARGE, checkpoint=str(large_checkpoint))
    return [*cases, large, stored]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(CodeGen(ODD, seed=9), write_tokenizer(folder / "tokenizer"), folder)
    return folder


@pytest.fixture(scope="module")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In shards and fp16, as released checkpoints."""
    folder = tmp_path_factory.mktemp("large")
    save_checkpoint(
        CodeGen(LARGE, seed=9),
        write_tokenizer(folder / "tokenizer"),
        folder,
        dtype=Dtype.fp16,
        max_shard_bytes=30_000_000,
    )
    return folder


@pytest.fixture(scope="module", params=[1, 2])
def built(
    request: pytest.FixtureRequest,
    checkpoint: Path,
    large_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, BuiltModel]]:
    """The built models by rank and case."""
    cases = make_cases(checkpoint, large_checkpoint)
    return run_ranks(cases, request.param, tmp_path_factory.mktemp("built"))


def test_every_rank_has_the_weights_of_the_whole_model(
    built: list[dict[str, BuiltModel]], checkpoint: Path
) -> None:
    for precision in ("fp32", "bf16"):
        dtype = TORCH_DTYPES[Dtype(precision)]
        models = {"new": CodeGen(ODD, seed=SEED), "stored": load_checkpoint(checkpoint)}
        for kind, model in models.items():
            expected = weights_digest(model.to(dtype).named_parameters())
            for zero_stage in (1, 3):
                for results in built:
                    assert results[f"ZeRO {zero_stage} {precision} {kind}"].digest == expected


def test_linear_layers_do_not_keep_gathered_weights(built: list[dict[str, BuiltModel]]) -> None:
    for results in built:
        assert not results["ZeRO 3 fp32 new"].keeps_gathered_weights


def test_the_ranks_together_need_little_more_memory_than_the_model(
    built: list[dict[str, BuiltModel]], large_checkpoint: Path
) -> None:
    models = {"new": CodeGen(LARGE, seed=SEED), "stored": load_checkpoint(large_checkpoint)}
    size_bytes = LARGE.num_parameters * torch.float32.itemsize
    for kind, model in models.items():
        results = [results[f"large {kind}"] for results in built]
        assert results[0].digest == weights_digest(model.named_parameters())
        share = sum(result.peak_bytes for result in results) / size_bytes
        print(f"{kind}, {len(results)} ranks: {share:.3f} of {size_bytes / 1e6:.0f} MB")
        assert 0.9 < share <= MAX_SHARE
