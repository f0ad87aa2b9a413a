"""Time and memory of reading and exporting a checkpoint of 350M parameters: the rows of
docs/figures.md.

    python tests/benchmarks/checkpoints.py

Writes random weights in fp16 as `transformers` and `torch.save` do, takes 3 GB in a temporary
folder and as much memory, and a minute or two. Each measurement is a process of its own. Memory is
the largest anonymous memory above that of the process with its imports, sampled every 10 ms: pages
of mapped files are not in it, since they can be dropped again.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import CodeGenConfig, CodeGenForCausalLM

from components.model.config import CheckpointFormat, Dtype
from components.model.huggingface import export_checkpoint, load_checkpoint

SHAPE = {
    "n_embd": 1024,
    "n_head": 16,
    "n_layer": 20,
    "rotary_dim": 32,
    "n_positions": 2048,
    "vocab_size": 51_200,
}
SHARD_BYTES = 200_000_000
_TOKENIZER = {"model": {"vocab": {"<|endoftext|>": 0}}, "added_tokens": []}


def write_checkpoints(folder: Path) -> None:
    """Write weights as safetensors shards with tokenizer files, and as one PyTorch file."""
    torch.manual_seed(0)
    model = CodeGenForCausalLM(CodeGenConfig(**SHAPE, n_ctx=2048)).half()
    model.save_pretrained(folder / "safetensors", max_shard_size=SHARD_BYTES)
    (folder / "safetensors" / "tokenizer.json").write_text(json.dumps(_TOKENIZER))
    (folder / "safetensors" / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    (folder / "bin").mkdir()
    (folder / "bin" / "config.json").write_text(
        (folder / "safetensors" / "config.json").read_text()
    )
    torch.save(model.state_dict(), folder / "bin" / "pytorch_model.bin")


def anonymous_mb() -> float:
    """Return the anonymous memory of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return (
        next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
        * 1024
        / 1e6
    )


def measure(
    name: str,
    work: Callable[..., object],
    arguments: tuple[object, ...],
    options: dict[str, object],
) -> None:
    """Run one measurement and print its row."""
    before, peak, done = anonymous_mb(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, anonymous_mb())

    watcher, started = threading.Thread(target=watch), time.monotonic()
    watcher.start()
    result = work(*arguments, **options)
    seconds = time.monotonic() - started
    done.set()
    watcher.join()
    difference = f", largest difference of logits {result:.1e}" if isinstance(result, float) else ""
    print(f"| {name} | {seconds:.1f} s, {peak - before:,.0f} MB{difference} |", flush=True)


def main() -> None:
    """Print a row for each measurement."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, context = Path(scratch), multiprocessing.get_context("spawn")
        work: list[tuple[object, ...]] = [("write", write_checkpoints, (folder,), {})]
        work += [
            (f"read {form}, fp16", load_checkpoint, (folder / form,), {})
            for form in ("safetensors", "bin")
        ]
        for layout, dtype in (
            (CheckpointFormat.codegen, Dtype.fp32),
            (CheckpointFormat.gptj, Dtype.fp16),
        ):
            options = {"layout": layout, "dtype": dtype, "max_shard_bytes": SHARD_BYTES}
            name = f"export as {layout} in {dtype}, shards of 200 MB, compared"
            work.append(
                (
                    name,
                    export_checkpoint,
                    (folder / "safetensors", folder / f"{layout}-{dtype}"),
                    options,
                )
            )
        for arguments in work:
            process = context.Process(target=measure, args=arguments)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
