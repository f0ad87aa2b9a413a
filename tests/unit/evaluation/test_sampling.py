from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.models import TINY, TOKENIZER, lively_model, write_tokenizer

from components.core.errors import ConfigError, DataError
from components.evaluation.sampling import Sampler
from components.model.huggingface import save_checkpoint
from components.model.transformer import CodeGen
from components.tokenizer.encoder import Encoder

PROGRAM = "def add(a, b):\n    return a + b\n"
SETTINGS: dict[str, Any] = {"max_new_tokens": 24, "temperature": 0.2, "top_p": 0.95}

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    """Of a model that was trained until it knows one program by heart, and that the program ends there."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer_folder = write_tokenizer(folder / "tokenizer")
    tokens = torch.tensor([[*Encoder(tokenizer_folder).encode(PROGRAM), TOKENIZER.eot_id]])
    model = CodeGen(TINY, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(tokens).backward()
        optimizer.step()
    save_checkpoint(model, tokenizer_folder, folder)
    return Sampler(folder)


def test_a_model_that_knows_a_program_completes_it_and_ends(sampler: Sampler) -> None:
    prompts = ["def add(a, b):\n", "def add(a, b):\n    return", PROGRAM]
    completions = sampler.complete(prompts, seeds=[1, 2, 3], **SETTINGS)
    assert completions == ["    return a + b\n", " a + b\n", ""]


def test_white_space_at_the_end_of_a_prompt_belongs_to_it(sampler: Sampler) -> None:
    with_space, without = sampler.complete(["def add(a, b):\n   ", "def add(a, b):"], seeds=[1, 1], **SETTINGS)
    assert without == "\n    return a + b\n"
    assert with_space != without


def test_a_benchmark_says_from_the_text_when_the_rest_is_of_no_use(tmp_path: Path) -> None:
    save_checkpoint(lively_model(sharpness=1.0), write_tokenizer(tmp_path), tmp_path)
    sampler, seen = Sampler(tmp_path), []
    hot = {"max_new_tokens": 40, "temperature": 1.0, "top_p": 1.0}

    def should_stop(text: str) -> bool:
        seen.append(text)
        return len(seen) == 2

    free = sampler.complete([PROGRAM], seeds=[1], **hot)[0]
    stopped = sampler.complete([PROGRAM], seeds=[1], **hot, should_stop=should_stop)[0]
    assert stopped == seen[-1] != free
    assert free.startswith(seen[0].rstrip("\ufffd"))  # A token may end inside a character.
    assert sampler.complete([PROGRAM], seeds=[1], **hot) == [free]
    assert sampler.complete([PROGRAM], seeds=[2], **hot) != [free]


def test_settings_and_folders_that_cannot_be_are_refused(sampler: Sampler, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        sampler.complete([PROGRAM], seeds=[1], max_new_tokens=4, temperature=0.0, top_p=0.9)
    with pytest.raises(DataError, match=r"tokenizer\.json does not exist"):
        Sampler(tmp_path)
