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
    most: int = 24,
    temperature: float = 0.2,
    top_p: float = 0.95,
    should_stop: Callable[[str], bool] | None = None,
) -> list[str]:
    waiting = deque(
        TextRequest(*one, most) for one in zip(range(len(prompts)), prompts, seeds, strict=True)
    )
    drawn = sampler.generate(
        waiting, max_new_tokens=most, temperature=temperature, top_p=top_p, should_stop=should_stop
    )
    by_key = {one.key: one.text for one in drawn}
    return [by_key[place] for place in range(len(prompts))]


def test_a_model_that_knows_a_program_completes_it_and_ends(sampler: Sampler) -> None:
    prompts = ["def add(a, b):\n", "def add(a, b):\n    return", PROGRAM]
    assert complete(sampler, prompts, [1, 2, 3]) == ["    return a + b\n", " a + b\n", ""]


def test_a_completion_says_whether_it_ended_by_itself(sampler: Sampler) -> None:
    for most, ended in ((24, True), (3, False)):
        (drawn,) = sampler.generate(
            deque([TextRequest(0, "def add(", 1, most)]),
            max_new_tokens=most,
            temperature=0,
            top_p=1,
        )
        assert drawn.ended is ended
        assert (drawn.num_tokens == 3) is not ended


def test_white_space_at_the_end_of_a_prompt_belongs_to_it(sampler: Sampler) -> None:
    with_space, without = complete(sampler, ["def add(a, b):\n   ", "def add(a, b):"], [1, 1])
    assert without == "\n    return a + b\n"
    assert with_space != without


@pytest.mark.parametrize("before", ["", "def", "def add(a, b):\n", "d\u00e9f ", "def ad"])
def test_the_scored_tokens_are_those_that_begin_after_a_place_in_the_text(
    checkpoint: Path, before: str
) -> None:
    """Also where a token reaches over that place: it begins before it."""
    prompt = before + PROGRAM
    sampler, encoder, model = Sampler(checkpoint), Encoder(checkpoint), load_checkpoint(checkpoint)
    request = TextRequest(0, prompt, 1, 4, scored_from=len(before))
    (drawn,) = sampler.generate(deque([request]), max_new_tokens=4, temperature=0.2, top_p=0.95)
    ids = encoder.encode(prompt)
    with torch.no_grad():
        p = torch.softmax(model(torch.tensor([ids]))[0].double(), -1)
    starts = [
        sum(int(encoder.token_num_bytes[one]) for one in ids[:place]) for place in range(len(ids))
    ]
    places = [place for place in range(1, len(ids)) if starts[place] >= len(before.encode())]
    assert drawn.num_scored == len(places) > 5
    assert drawn.prompt_nats == pytest.approx(
        sum(-math.log(p[place - 1, ids[place]]) for place in places), rel=1e-4
    )


def test_a_benchmark_says_from_the_text_when_the_rest_is_of_no_use(tmp_path: Path) -> None:
    save_checkpoint(lively_model(sharpness=1.0), write_tokenizer(tmp_path), tmp_path)
    sampler, seen = Sampler(tmp_path), list[str]()

    def should_stop(text: str) -> bool:
        seen.append(text)
        return len(seen) == 2

    def hot(seed: int, should_stop: Callable[[str], bool] | None = None) -> str:
        return complete(
            sampler, [PROGRAM], [seed], most=32, temperature=1.0, top_p=1.0, should_stop=should_stop
        )[0]

    free, stopped = hot(1), hot(1, should_stop)
    assert stopped == seen[-1] != free
    assert free.startswith(seen[0].rstrip("\ufffd"))  # A token may end inside a character.
    assert hot(1) == free != hot(2)


def test_a_folder_as_it_is_released_can_be_sampled(checkpoint: Path, tmp_path: Path) -> None:
    """With the files that `transformers` writes of a model and its tokenizer, and nothing of ours."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    CodeGenTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(tmp_path)
    prompts = ["def add(a, b):\n", PROGRAM]
    assert complete(Sampler(tmp_path), prompts, [1, 2]) == complete(
        Sampler(checkpoint), prompts, [1, 2]
    )


def test_settings_and_folders_that_cannot_be_are_refused(sampler: Sampler, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        complete(sampler, [PROGRAM], [1], temperature=-1.0)
    with pytest.raises(DataError, match=r"tokenizer\.json does not exist"):
        Sampler(tmp_path)
