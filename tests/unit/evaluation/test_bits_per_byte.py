"""Bits per byte against values computed by hand, and against full logits."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from fixtures.models import TINY, TOKENIZER, lively_model, write_tokenizer
from fixtures.shards import write_split
from safetensors.torch import save_file

from components.core.errors import ArtifactError, EvaluationError
from components.core.files import read_json, write_json
from components.dataset.config import StreamingCacheConfig
from components.dataset.shards import INDEX_JSON, Index
from components.evaluation.bits_per_byte import (
    TextScore,
    bits_per_byte_of_texts,
    evaluate_held_out,
    run_bits_per_byte,
)
from components.evaluation.text_scorer import (
    ModelScorer,
    ScorerPool,
    TokenBatch,
    open_scorer,
    scoring_devices,
    scoring_precision,
)
from components.model.config import Dtype
from components.model.huggingface import load_checkpoint, save_checkpoint
from components.model.transformer import CodeGen
from components.tokenizer.encoder import Encoder

EOT, LENGTH = TOKENIZER.eot_id, 16

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def prepare(
    folder: Path, corpus: str, texts: dict[str, list[list[int]]], *, eot_id: int = EOT
) -> Path:
    """A prepared corpus as its reader needs it: sequences of 16 tokens by language."""
    splits = {}
    for name, sequences in {
        "train": [[0] * LENGTH],
        **{f"held-out/{key}": value for key, value in texts.items()},
    }.items():
        splits[name], _ = write_split(
            folder / corpus, name, LENGTH, [np.array(sequence) for sequence in sequences]
        )
    index = Index(
        corpus=corpus,
        context_length=LENGTH,
        eot_id=eot_id,
        num_ids=TOKENIZER.num_ids,
        splits=splits,
    )
    write_json(folder / corpus / INDEX_JSON, index.model_dump(mode="json"))
    return folder / corpus


def uniform_model() -> CodeGen:
    """Every token has the probability 1/512, but the end-of-text 9/520."""
    model = lively_model()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.head.bias[EOT] = math.log(9)
    return model


def test_bits_per_byte_by_hand(encoder: Encoder, tmp_path: Path) -> None:
    # Bytes are tokens 0 to 255; 31 spaces are one token, the first after the end-of-text.
    spaces = EOT + 1
    # Predicted: 2 + 11 single bytes, the end-of-text, 31 spaces.
    first = [1, 2, 3, EOT, spaces, *[9] * 11]
    second = [spaces, *[7] * 15]  # the 31 spaces are given, not predicted
    prepared = {"nl": prepare(tmp_path, "nl", {"English": [first, second]})}
    result = evaluate_held_out(ModelScorer(uniform_model()), encoder, prepared, 10)
    num_bytes = (13 + 31) + 15
    bits = 29 * math.log2(520) + (math.log2(520) - math.log2(9))
    assert result == {
        "nl/English": {
            "bits_per_byte": pytest.approx(bits / num_bytes, rel=1e-6),
            "num_bytes": num_bytes,
            "num_tokens": 30,
        }
    }


def reference_nats(model: CodeGen, tokens: list[int], start: int) -> float:
    with torch.no_grad():
        log_p = model(torch.tensor([tokens]))[0].double().log_softmax(-1)
    return -sum(float(log_p[index - 1, tokens[index]]) for index in range(start, len(tokens)))


def test_splits_are_scored_like_full_logits(encoder: Encoder, tmp_path: Path) -> None:
    model, draws = lively_model(sharpness=1.0), np.random.default_rng(0)
    texts = {
        language: draws.integers(0, TOKENIZER.num_ids, (count, LENGTH)).tolist()
        for language, count in (("C", 3), ("C++", 700))
    }
    result = evaluate_held_out(
        ModelScorer(model), encoder, {"multi": prepare(tmp_path, "multi", texts)}, 300
    )
    assert list(result) == ["multi/C", "multi/C++"]
    evenly_spaced = [texts["C++"][number * 700 // 300] for number in range(300)]
    for name, sequences in (("multi/C", texts["C"]), ("multi/C++", evenly_spaced)):
        nats = sum(reference_nats(model, sequence, 1) for sequence in sequences)
        num_bytes = sum(int(encoder.token_num_bytes[sequence[1:]].sum()) for sequence in sequences)
        assert result[name]["num_bytes"] == num_bytes
        assert result[name]["num_tokens"] == 15 * len(sequences)
        assert result[name]["bits_per_byte"] == pytest.approx(
            nats / math.log(2) / num_bytes, rel=1e-5
        )


def test_a_remote_corpus_is_scored_through_the_cache(encoder: Encoder, tmp_path: Path) -> None:
    model, draws = lively_model(sharpness=1.0), np.random.default_rng(0)
    texts = {"English": draws.integers(0, TOKENIZER.num_ids, (40, LENGTH)).tolist()}
    folder = prepare(tmp_path, "nl", texts)
    fs, root = fsspec.url_to_fs(f"memory://{tmp_path.name}")
    fs.put(f"{folder}/", f"{root}/", recursive=True)
    streaming = StreamingCacheConfig(
        cache_folder=str(tmp_path / "cache"), cache_bytes=3 * 2 * LENGTH, range_bytes=1
    )
    remote = evaluate_held_out(
        ModelScorer(model), encoder, {"nl": f"memory://{tmp_path.name}"}, 30, streaming
    )
    assert remote == evaluate_held_out(ModelScorer(model), encoder, {"nl": folder}, 30)


def test_completions_are_scored_given_their_prompts(encoder: Encoder) -> None:
    model = lively_model(sharpness=1.0)
    prompts, completions = ["def add(a, b):\n", "# héllo\n"], ["    return a + b\n", "print('é')\n"]
    result = bits_per_byte_of_texts(ModelScorer(model), encoder, prompts, completions)
    pairs = [
        (encoder.encode(prompt), encoder.encode(completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    nats = sum(
        reference_nats(model, prompt + completion, len(prompt)) for prompt, completion in pairs
    )
    num_bytes = sum(len(completion.encode()) for completion in completions)
    assert result["num_bytes"] == num_bytes
    assert result["num_tokens"] == sum(len(completion) for _, completion in pairs)
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


def test_texts_longer_than_the_context_are_scored_in_windows(encoder: Encoder) -> None:
    """Context 64; 50 tokens of prompt and 90 of completion: scored up to 82 with tokens 18.., to
    114, to 140.
    """
    model = lively_model(sharpness=1.0)
    prompt, completion = "a1" * 25, "b2" * 45
    tokens = encoder.encode(prompt) + encoder.encode(completion)
    assert len(encoder.encode(prompt)) == 50
    assert len(tokens) == 140
    windows = [(18, 50, 82), (50, 82, 114), (76, 114, 140)]
    nats = sum(
        reference_nats(model, tokens[first:end], start - first) for first, start, end in windows
    )
    result = bits_per_byte_of_texts(ModelScorer(model), encoder, [prompt], [completion])
    assert result["num_tokens"] == 90
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / 90, rel=1e-5)


def test_a_corpus_of_another_tokenizer_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    prepared = {"nl": prepare(tmp_path, "nl", {"English": [[1] * LENGTH]}, eot_id=EOT - 1)}
    with pytest.raises(EvaluationError, match=r"corpus nl has 495 token ids, end-of-text 455"):
        evaluate_held_out(ModelScorer(lively_model()), encoder, prepared, 10)


def test_a_corpus_for_a_longer_context_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    prepared = {"nl": prepare(tmp_path, "nl", {"English": [[1] * LENGTH]})}
    with pytest.raises(EvaluationError, match="sequences of 16 tokens"):
        evaluate_held_out(
            ModelScorer(lively_model(TINY.replace(context_length=8))), encoder, prepared, 10
        )


@pytest.mark.parametrize("score", [TextScore(1.0, 0, 1), TextScore(math.nan, 5, 1)])
def test_a_score_without_bytes_or_with_nan_is_an_error(score: TextScore) -> None:
    with pytest.raises(EvaluationError, match="bytes of text with a log likelihood"):
        score.as_record()


def test_the_evaluation_has_every_split_and_the_canonical_solutions(
    encoder: Encoder, tmp_path: Path
) -> None:
    tokenizer_folder = write_tokenizer(tmp_path / "tokenizer")
    save_checkpoint(uniform_model(), tokenizer_folder, tmp_path / "checkpoint")
    prepared = {
        "nl": prepare(tmp_path, "nl", {"English": [[1] * LENGTH]}),
        "mono": prepare(tmp_path, "mono", {"Python": [[2] * LENGTH]}),
    }
    statistics = run_bits_per_byte(
        tmp_path / "result", checkpoint=tmp_path / "checkpoint", prepared=prepared, max_sequences=5
    )
    results = read_json(tmp_path / "result" / "results.json")["splits"]
    assert set(results) == {"nl/English", "mono/Python", "humaneval/canonical"}
    assert results["mono/Python"]["bits_per_byte"] == pytest.approx(math.log2(520))
    canonical = results["humaneval/canonical"]
    assert canonical["bits_per_byte"] == pytest.approx(
        math.log2(520) * canonical["num_tokens"] / canonical["num_bytes"], rel=1e-5
    )
    assert canonical["num_bytes"] == 29_662  # Counted from the file.
    assert {name: statistics[name] for name in ("nl", "mono", "humaneval")} == {
        "nl": {"English": results["nl/English"]["bits_per_byte"]},
        "mono": {"Python": results["mono/Python"]["bits_per_byte"]},
        "humaneval": {"canonical": canonical["bits_per_byte"]},
    }


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """A checkpoint, and a corpus with more batches than processes."""
    folder = tmp_path_factory.mktemp("evaluated")
    tokenizer_folder = write_tokenizer(folder / "tokenizer")
    save_checkpoint(lively_model(sharpness=1.0), tokenizer_folder, folder / "checkpoint")
    draws = np.random.default_rng(1)
    texts = {
        language: draws.integers(0, TOKENIZER.num_ids, (count, LENGTH)).tolist()
        for language, count in (("C", 600), ("Go", 1500))
    }
    return folder / "checkpoint", {"multi": prepare(folder, "multi", texts)}


def test_two_processes_give_the_values_of_one_in_order(
    evaluated: tuple[Path, dict[str, Path]],
) -> None:
    checkpoint, prepared = evaluated
    draws = np.random.default_rng(2)
    batches = [
        TokenBatch(draws.integers(0, TOKENIZER.num_ids, (1 + number % 3, 9 + number)), 1 + number)
        for number in range(20)
    ]
    single = ModelScorer(load_checkpoint(checkpoint).eval())
    encoder = Encoder(checkpoint)
    with open_scorer(checkpoint, ["cpu", "cpu"], Dtype.fp32) as pool:
        assert list(pool.nats(batches)) == list(single.nats(batches))
        scores = evaluate_held_out(pool, encoder, prepared, 1500)
    assert scores == evaluate_held_out(single, encoder, prepared, 1500)


def test_the_precision_changes_the_result_and_its_protocol(
    evaluated: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    checkpoint, prepared = evaluated
    fp32, bf16 = (
        run_bits_per_byte(
            tmp_path / precision,
            checkpoint=checkpoint,
            prepared=prepared,
            max_sequences=8,
            precision=precision,
        )
        for precision in (Dtype.fp32, Dtype.bf16)
    )
    assert bf16["multi"]["C"] != fp32["multi"]["C"]
    assert bf16["multi"]["C"] == pytest.approx(fp32["multi"]["C"], rel=0.01)
    assert bf16["protocol"] != fp32["protocol"]
    settings = read_json(tmp_path / "bf16" / "results.json")["protocol_settings"]
    assert settings["precision"] == "bf16"


def test_an_error_of_a_scoring_process_is_raised(
    evaluated: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(evaluated[0], damaged)
    save_file({"lm_head.bias": torch.zeros(512)}, damaged / "model.safetensors")
    with (
        ScorerPool(damaged, ["cpu"], Dtype.fp32) as scorer,
        pytest.raises(ArtifactError, match="lacks the tensor"),
    ):
        list(scorer.nats([TokenBatch(np.zeros((1, 4), np.int64), 1)]))


def test_training_devices_of_this_machine_score(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scoring_devices("auto", 4) == ["cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert scoring_devices("auto", 2) == ["cuda:0", "cuda:1"]
    assert scoring_devices("cuda", 16) == ["cuda:0", "cuda:1", "cuda:2"]
    assert scoring_devices("cpu", 4) == ["cpu"]


def test_scores_have_the_precision_of_training() -> None:
    assert scoring_precision("auto", "cpu") == "fp32"
    assert scoring_precision("auto", "cuda:0") == "bf16"
    assert scoring_precision("fp16", "cuda:0") == "fp16"
    assert scoring_precision("bf16", "cpu") == "bf16"
