"""Sampled tokens per second of this project against `generate` of transformers, with the same
model, prompts and lengths.

    python tests/benchmarks/sampling.py [--shape starter] [--samples 20] [--prompts 8] [--new-tokens
    128] [--rounds 3]

Both sample the same number of tokens (no completion ends early) at temperature 0.8 and top-p 0.95,
from HumanEval's prompts of median length in CodeGen's tokens. Weights are random; those of the head
are scaled, so that a nucleus is as small as a trained model's (its mean size is printed).
transformers uses a KV cache, inference mode and the fastest of several batch sizes and caches,
which is selected before the rounds. It processes one batch after the other, so fewer prompts are
enough to measure its rate. Both alternate within a round, and the medians over the rounds are
compared. This project's side is what an evaluation uses, with text as input and output: one process
per core for the starter's model. Its first call is not counted.
"""

from __future__ import annotations

import argparse
import json
import lzma
import platform
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from components.evaluation.benchmarks.humaneval import load_humaneval
from components.evaluation.sampling.sampler import TextRequest
from components.evaluation.sampling.sampler_pool import open_sampler
from components.model.config import ModelConfig
from components.model.huggingface import save_checkpoint
from components.model.transformer import CodeGen
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.encoder import Encoder
from components.tokenizer.vocabulary import build_tokenizer

SHAPES = {
    "starter": (
        ModelConfig(
            num_layers=4,
            num_heads=4,
            head_dim=32,
            rotary_dim=16,
            context_length=512,
            padded_vocab_size=2_304,
        ),
        2_000,
    ),
    "350m": (
        ModelConfig(
            num_layers=20,
            num_heads=16,
            head_dim=64,
            rotary_dim=32,
            context_length=2048,
            padded_vocab_size=51_200,
        ),
        50_000,
    ),
}
"""Model and merges of its tokenizer."""
HEAD_SCALE = 5.0
TEMPERATURE, TOP_P = 0.8, 0.95
Run = Callable[[], tuple[float, int]]


def main(
    shape: str,
    samples: int,
    prompts: int,
    new_tokens: int,
    rounds: int,
    device: str,
    layers: int | None,
    method: str,
) -> None:
    """Measure both and print the rates."""
    config, merges = SHAPES[shape]
    config = config.replace(num_layers=layers) if layers else config
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        encoder = _encoder(folder, merges)
        texts = [problem.prompt for problem in load_humaneval()]
        median_prompts = _median_length(texts, encoder, prompts)
        model = _model(config, encoder)
        save_checkpoint(model, folder, folder)
        ids = [encoder.encode(prompt) for prompt in median_prompts]
        print(f"{shape}, {config.num_parameters / 1e6:,.1f}M parameters; {_machine(device)}")
        print(
            f"{prompts} prompts of {len(ids[0])} to {len(ids[-1])} tokens, {samples} samples "
            f"each, {new_tokens} new tokens"
        )
        print(
            "mean size of the nucleus after a prompt: "
            f"{_nucleus(model, ids, encoder.num_ids):.0f} tokens"
        )
        del model
        fastest = _fastest(_transformers(folder, device), ids, samples, new_tokens, method)
        with open_sampler(folder) as sampler:
            _compare(
                fastest, _sampler_run(sampler, median_prompts, samples, new_tokens), rounds, shape
            )


def _compare(transformers: Run, codegen: Run, rounds: int, shape: str) -> None:
    codegen()  # The first call builds caches and processes.
    ratios, rates = [], []
    for number in range(1, rounds + 1):
        transformers_rate, codegen_rate = _rate(transformers), _rate(codegen)
        rates.append(codegen_rate)
        ratios.append(codegen_rate / transformers_rate)
        print(
            f"round {number}: transformers {transformers_rate:,.1f}, codegen {codegen_rate:,.1f} "
            f"tokens/s: {ratios[-1]:.2f}x",
            flush=True,
        )
    print(f"median: {statistics.median(rates):,.1f} tokens/s, {statistics.median(ratios):.2f}x")
    print(
        json.dumps(
            {
                "shape": shape,
                "ratio": statistics.median(ratios),
                "ratios": ratios,
                "tokens_per_s": rates,
            }
        )
    )


def _median_length(texts: list[str], encoder: Encoder, count: int) -> list[str]:
    """Return the texts of median length in tokens."""
    ordered = sorted(texts, key=lambda text: len(encoder.encode(text)))
    return ordered[(len(ordered) - count) // 2 :][:count]


def _encoder(folder: Path, merges: int) -> Encoder:
    golden = Path(__file__).parents[1] / "golden" / "gpt2.tiktoken.xz"
    folder.mkdir()
    ranks = folder.parent / "gpt2.tiktoken"
    ranks.write_bytes(lzma.decompress(golden.read_bytes()))
    build_tokenizer(ranks, TokenizerConfig(num_merges=merges), folder)
    return Encoder(folder)


def _model(config: ModelConfig, encoder: Encoder) -> CodeGen:
    """Return a model with random weights and a scaled head that never ends a text."""
    model = CodeGen(config).eval()
    with torch.no_grad():
        model.head.weight.mul_(HEAD_SCALE)
        model.head.bias[encoder.eot_id] = -1e4
    return model


def _transformers(folder: Path, device: str) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()


@torch.inference_mode()
def _nucleus(model: CodeGen, prompts: list[list[int]], num_ids: int) -> float:
    device, sizes = model.embedding.weight.device, []
    for prompt in prompts:
        p = torch.softmax(
            model(torch.tensor([prompt], device=device))[0, -1, :num_ids].float() / TEMPERATURE, -1
        )
        sizes.append(int((p.sort(descending=True).values.cumsum(0) < TOP_P).sum()) + 1)
    return statistics.mean(sizes)


def _sampler_run(sampler: Any, prompts: list[str], samples: int, new_tokens: int) -> Run:
    def run() -> tuple[float, int]:
        requests = deque(
            TextRequest((index, number), prompt, 1_000 * index + number, new_tokens)
            for index, prompt in enumerate(prompts)
            for number in range(samples)
        )
        started = time.perf_counter()
        completions = sampler.generate(
            requests, max_new_tokens=new_tokens, temperature=TEMPERATURE, top_p=TOP_P
        )
        tokens = sum(completion.num_tokens for completion in completions)
        return time.perf_counter() - started, tokens

    return run


def _fastest(
    model: torch.nn.Module, prompts: list[list[int]], samples: int, new_tokens: int, method: str
) -> Run:
    """Return the fastest of one and four prompts per batch, with a growing and a static cache.

    Of methods within 5 %, the one with the smaller batch, whose rounds take less time.
    """
    if method:
        batch_size, cache = method.split(",")
        return _transformers_run(
            model, prompts, samples, new_tokens, int(batch_size), static=cache == "static"
        )
    methods = [
        (batch_size, static)
        for batch_size in (1, 4)
        if batch_size <= len(prompts)
        for static in (False, True)
    ]
    rates = {}
    for batch_size, static in methods:
        try:
            rates[batch_size, static] = _rate(
                _transformers_run(
                    model, prompts, samples, min(16, new_tokens), batch_size, static=static
                )
            )
        except Exception as error:  # The model does not support this cache.
            print(
                f"transformers, {batch_size} prompts at once, static cache {static}: "
                f"{type(error).__name__}: {error}"[:160]
            )
    for (batch_size, static), rate in rates.items():
        print(
            f"transformers, {batch_size} prompts at once, static cache {static}: {rate:,.1f} "
            "tokens/s in short runs"
        )
    candidates = [method for method, rate in rates.items() if rate > 0.95 * max(rates.values())]
    batch_size, static = max(candidates, key=lambda method: (-method[0], rates[method]))
    return _transformers_run(model, prompts, samples, new_tokens, batch_size, static=static)


def _transformers_run(
    model: torch.nn.Module,
    prompts: list[list[int]],
    samples: int,
    new_tokens: int,
    batch_size: int,
    *,
    static: bool,
) -> Run:
    device = next(model.parameters()).device
    batch = prompts[:batch_size]
    longest = max(map(len, batch))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in batch], device=device)
    mask = torch.tensor(
        [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in batch], device=device
    )

    def run() -> tuple[float, int]:
        started = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(  # type: ignore[operator]
                ids,
                attention_mask=mask,
                do_sample=True,
                temperature=TEMPERATURE,
                top_p=TOP_P,
                top_k=0,
                num_return_sequences=samples,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                pad_token_id=0,
                eos_token_id=None,
                use_cache=True,
                **({"cache_implementation": "static"} if static else {}),
            )
            num_tokens = (output.shape[1] - longest) * output.shape[0]
        return time.perf_counter() - started, num_tokens

    return run


def _rate(run: Run) -> float:
    seconds, tokens = run()
    return tokens / seconds


def _machine(device: str) -> str:
    if device == "cpu":
        return (
            f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
            f"PyTorch {torch.__version__}"
        )
    return f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="starter")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, default=None)
    parser.add_argument(
        "--method",
        default="",
        help="method of transformers if the fastest is known: 1,growing or 4,static",
    )
    main(**vars(parser.parse_args()))
