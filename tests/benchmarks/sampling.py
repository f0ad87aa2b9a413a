"""New tokens per second: our sampling against `generate` of transformers, on the same model,
prompts and lengths.

    python tests/benchmarks/sampling.py [--shape starter] [--samples 20] [--prompts 8] [--new-tokens
    128] [--rounds 3]

Both draw the same number of tokens (no completion ends early) at temperature 0.8, top-p 0.95, after
HumanEval's prompts of median length in CodeGen's own tokens. Weights are random; the head's are
made sharper, so that a nucleus is as small as a trained model's (its mean size is printed).
transformers is given its best: KV cache, inference mode, and the fastest of several ways to batch,
found before the rounds; it takes prompts one batch after the other, so its rate is measured on
fewer of them. Both take turns within a round, and the medians over the rounds are compared. Ours is
what an evaluation uses, with text in and text out: a process a core for the starter's model, whose
rate at the first use is left out.
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
SHARPER = 5.0
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
    way: str,
) -> None:
    """Measure and print."""
    config, merges = SHAPES[shape]
    config = config.replace(num_layers=layers) if layers else config
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        encoder = _encoder(folder, merges)
        middle = _middle([one.prompt for one in load_humaneval()], encoder, prompts)
        model = _model(config, encoder)
        save_checkpoint(model, folder, folder)
        ids = [encoder.encode(one) for one in middle]
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
        best = _fastest(_transformers(folder, device), ids, samples, new_tokens, way)
        with open_sampler(folder) as sampler:
            _compare(best, _ours(sampler, middle, samples, new_tokens), rounds, shape)


def _compare(theirs: Run, ours: Run, rounds: int, shape: str) -> None:
    ours()  # Once for what is made at the first use.
    ratios, rates = [], []
    for number in range(1, rounds + 1):
        their_rate, our_rate = _rate(theirs), _rate(ours)
        rates.append(our_rate)
        ratios.append(our_rate / their_rate)
        print(
            f"round {number}: transformers {their_rate:,.1f}, ours {our_rate:,.1f} tokens/s: "
            f"{ratios[-1]:.2f}x",
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


def _middle(texts: list[str], encoder: Encoder, count: int) -> list[str]:
    """The texts of median length in tokens."""
    ordered = sorted(texts, key=lambda one: len(encoder.encode(one)))
    return ordered[(len(ordered) - count) // 2 :][:count]


def _encoder(folder: Path, merges: int) -> Encoder:
    golden = Path(__file__).parents[1] / "golden" / "gpt2.tiktoken.xz"
    folder.mkdir()
    ranks = folder.parent / "gpt2.tiktoken"
    ranks.write_bytes(lzma.decompress(golden.read_bytes()))
    build_tokenizer(ranks, TokenizerConfig(num_merges=merges), folder)
    return Encoder(folder)


def _model(config: ModelConfig, encoder: Encoder) -> CodeGen:
    """Random weights with a sharper head, which never ends a text."""
    model = CodeGen(config).eval()
    with torch.no_grad():
        model.head.weight.mul_(SHARPER)
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


def _ours(sampler: Any, prompts: list[str], samples: int, new_tokens: int) -> Run:
    def run() -> tuple[float, int]:
        waiting = deque(
            TextRequest((place, number), prompt, 1_000 * place + number, new_tokens)
            for place, prompt in enumerate(prompts)
            for number in range(samples)
        )
        started = time.perf_counter()
        drawn = sampler.generate(
            waiting, max_new_tokens=new_tokens, temperature=TEMPERATURE, top_p=TOP_P
        )
        tokens = sum(one.num_tokens for one in drawn)
        return time.perf_counter() - started, tokens

    return run


def _fastest(
    model: torch.nn.Module, prompts: list[list[int]], samples: int, new_tokens: int, way: str
) -> Run:
    """The fastest of: a prompt at a time, and several side by side; with a growing and with a
    static cache. Of ways within 5 % the one with fewer prompts at once, whose rounds take less
    time."""
    if way:
        together, cache = way.split(",")
        return _theirs(model, prompts, samples, new_tokens, int(together), static=cache == "static")
    ways = [
        (together, static)
        for together in (1, 4)
        if together <= len(prompts)
        for static in (False, True)
    ]
    rates = {}
    for together, static in ways:
        try:
            rates[together, static] = _rate(
                _theirs(model, prompts, samples, min(16, new_tokens), together, static=static)
            )
        except Exception as error:  # A way that this model does not know is none.
            print(
                f"transformers, {together} prompts at once, static cache {static}: "
                f"{type(error).__name__}: {error}"[:160]
            )
    for (together, static), rate in rates.items():
        print(
            f"transformers, {together} prompts at once, static cache {static}: {rate:,.1f} "
            "tokens/s in short runs"
        )
    good = [way for way, rate in rates.items() if rate > 0.95 * max(rates.values())]
    together, static = max(good, key=lambda way: (-way[0], rates[way]))
    return _theirs(model, prompts, samples, new_tokens, together, static=static)


def _theirs(
    model: torch.nn.Module,
    prompts: list[list[int]],
    samples: int,
    new_tokens: int,
    together: int,
    *,
    static: bool,
) -> Run:
    device = next(model.parameters()).device
    some = prompts[:together]
    longest = max(map(len, some))
    ids = torch.tensor([[0] * (longest - len(one)) + one for one in some], device=device)
    mask = torch.tensor(
        [[0] * (longest - len(one)) + [1] * len(one) for one in some], device=device
    )

    def run() -> tuple[float, int]:
        started = time.perf_counter()
        with torch.inference_mode():
            found = model.generate(  # type: ignore[operator]
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
            drawn = (found.shape[1] - longest) * found.shape[0]
        return time.perf_counter() - started, drawn

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
        "--way", default="", help="Of transformers, where it is known: 1,growing or 4,static."
    )
    main(**vars(parser.parse_args()))
