"""Completions of a checkpoint as text."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from fixtures.models import lively_model, write_reciting, write_tokenizer
from transformers import AutoTokenizer, CodeGenTokenizerFast

from components.core.errors import ConfigError, DataError
from components.evaluation.sampling.sampler import Sampler, TextRequest
from components.model.huggingface import load_checkpoint, save_checkpoint
from components.tokenizer.encoder import Encoder

PROGRAM = "def add(a, b):\n    return a + b\n"

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reciting(tmp_path_factory.mktemp("checkpoint"), PROGRAM)


@pytest.fixture(scope="module")
def sampler(checkpoint: Path) -> Sampler:
    return Sampler(checkpoint)


def complete(
    sampler: Sampler,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    max_new_tokens: int = 24,
    temperature: float = 0.2,
    top_p: float = 0.95,
    should_stop: Callable[[str], bool] | None = None,
) -> list[str]:
    requests = deque(
        TextRequest(index, prompt, seed, max_new_tokens)
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    )
    completions = sampler.generate(
        requests,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        should_stop=should_stop,
    )
    texts = {completion.key: completion.text for completion in completions}
    return [texts[index] for index in range(len(prompts))]


def test_a_model_that_memorized_a_program_completes_it_and_ends(sampler: Sampler) -> None:
    prompts = ["def add(a, b):\n", "def add(a, b):\n    return", PROGRAM]
    assert complete(sampler, prompts, [1, 2, 3]) == ["    return a + b\n", " a + b\n", ""]


def test_a_completion_states_whether_it_ended_before_the_token_limit(sampler: Sampler) -> None:
    for max_new_tokens, is_finished in ((24, True), (3, False)):
        (completion,) = sampler.generate(
            deque([TextRequest(0, "def add(", 1, max_new_tokens)]),
            max_new_tokens=max_new_tokens,
            temperature=0,
            top_p=1,
        )
        assert completion.is_finished is is_finished
        assert (completion.num_tokens == 3) is not is_finished


def test_trailing_white_space_of_a_prompt_is_preserved(sampler: Sampler) -> None:
    with_space, without = complete(sampler, ["def add(a, b):\n   ", "def add(a, b):"], [1, 1])
    assert without == "\n    return a + b\n"
    assert with_space != without


@pytest.mark.parametrize("before", ["", "def", "def add(a, b):\n", "d\u00e9f ", "def ad"])
def test_tokens_that_begin_after_a_character_are_scored(checkpoint: Path, before: str) -> None:
    """A token that spans the character begins before it and is not scored."""
    prompt = before + PROGRAM
    sampler, encoder, model = Sampler(checkpoint), Encoder(checkpoint), load_checkpoint(checkpoint)
    request = TextRequest(0, prompt, 1, 4, scored_from=len(before))
    (completion,) = sampler.generate(
        deque([request]), max_new_tokens=4, temperature=0.2, top_p=0.95
    )
    ids = encoder.encode(prompt)
    with torch.no_grad():
        p = torch.softmax(model(torch.tensor([ids]))[0].double(), -1)
    starts = [
        sum(int(encoder.token_num_bytes[token]) for token in ids[:index])
        for index in range(len(ids))
    ]
    scored = [index for index in range(1, len(ids)) if starts[index] >= len(before.encode())]
    assert completion.num_scored == len(scored) > 5
    assert completion.prompt_nats == pytest.approx(
        sum(-math.log(p[index - 1, ids[index]]) for index in scored), rel=1e-4
    )


def test_should_stop_ends_a_completion_early(tmp_path: Path) -> None:
    save_checkpoint(lively_model(sharpness=1.0), write_tokenizer(tmp_path), tmp_path)
    sampler, texts = Sampler(tmp_path), list[str]()

    def should_stop(text: str) -> bool:
        texts.append(text)
        return len(texts) == 2

    def complete_hot(seed: int, should_stop: Callable[[str], bool] | None = None) -> str:
        return complete(
            sampler,
            [PROGRAM],
            [seed],
            max_new_tokens=32,
            temperature=1.0,
            top_p=1.0,
            should_stop=should_stop,
        )[0]

    free, stopped = complete_hot(1), complete_hot(1, should_stop)
    assert stopped == texts[-1] != free
    assert free.startswith(texts[0].rstrip("\ufffd"))  # a token may end inside a character
    assert complete_hot(1) == free != complete_hot(2)


def test_a_released_folder_can_be_sampled(checkpoint: Path, tmp_path: Path) -> None:
    """With the files that `transformers` writes for a model and its tokenizer."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    CodeGenTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(tmp_path)
    prompts = ["def add(a, b):\n", PROGRAM]
    assert complete(Sampler(tmp_path), prompts, [1, 2]) == complete(
        Sampler(checkpoint), prompts, [1, 2]
    )


def test_invalid_settings_and_folders_are_refused(sampler: Sampler, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        complete(sampler, [PROGRAM], [1], temperature=-1.0)
    with pytest.raises(DataError, match=r"tokenizer\.json does not exist"):
        Sampler(tmp_path)
