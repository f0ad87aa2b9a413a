"""Host memory of ranks that build a model together: the rows of docs/figures.md.

    python tests/benchmarks/model_build.py [--layers 16] [--width 2048] [--whole] [--stored]

Builds a model with GPT-2's vocabulary on two CPU ranks with ZeRO 3, in fp32. The default has 1.0B
parameters and takes 6 GB of memory. `--whole` builds the whole model on every rank first, as before
version 0.2; `--stored` reads the weights from a checkpoint in fp16, which it writes before.

Memory is the largest anonymous memory of each rank above that with its imports, sampled every 2 ms,
as a sum over the ranks: pages of mapped files are not in it, since they can be dropped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fixtures.build_probe import SEED, BuildCase, run_ranks
from fixtures.models import TINY, TOKENIZER, write_tokenizer

from components.model.config import Dtype, ModelConfig

_HEAD_DIM = 64
_FP32_BYTES = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--stored", action="store_true")
    options = parser.parse_args()
    model = ModelConfig(
        num_layers=options.layers,
        num_heads=options.width // _HEAD_DIM,
        head_dim=_HEAD_DIM,
        rotary_dim=32,
        context_length=2048,
        padded_vocab_size=51_200,
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.stored:
            write_checkpoint(model, folder / "checkpoint")
        case = BuildCase(
            name="model",
            model=model,
            checkpoint=str(folder / "checkpoint") if options.stored else None,
            is_whole=options.whole,
            has_digest=False,
        )
        # The first build imports more libraries.
        tiny = BuildCase(name="tiny", model=TINY, is_whole=options.whole, has_digest=False)
        results = [rank["model"] for rank in run_ranks([tiny, case], options.ranks, folder)]
    size_bytes = model.num_parameters * _FP32_BYTES
    peak_bytes = sum(result.peak_bytes for result in results)
    print(
        f"{model.num_parameters / 1e6:,.0f}M parameters, {options.ranks} ranks, "
        f"{'whole' if options.whole else 'partitioned'}, {'stored' if options.stored else 'new'}: "
        f"{peak_bytes / 1e9:.2f} GB for {size_bytes / 1e9:.2f} GB, "
        f"{peak_bytes / size_bytes:.3f} times the model; "
        f"{max(result.build_s for result in results):.0f} s; before, a rank has "
        f"{results[0].start_bytes / 1e9:.2f} GB"
    )


def write_checkpoint(model: ModelConfig, folder: Path) -> None:
    """Write new weights in fp16, in shards."""
    from components.model.huggingface import save_checkpoint
    from components.model.transformer import CodeGen

    tokenizer = write_tokenizer(folder / "tokenizer", TOKENIZER)
    save_checkpoint(CodeGen(model, seed=SEED), tokenizer, folder, dtype=Dtype.fp16)


if __name__ == "__main__":
    main()
