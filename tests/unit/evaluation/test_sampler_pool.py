"""A pool of processes, against a single sampler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from fixtures.models import TINY, lively_model, write_tokenizer

from components.core.errors import EvaluationError
from components.evaluation.benchmarks.protocol import is_complete
from components.evaluation.sampling.sampler import Sampler, TextCompletion, TextRequest
from components.evaluation.sampling.sampler_pool import SamplerPool, open_sampler, sampling_devices
from components.model.huggingface import save_checkpoint

torch.set_num_threads(1)

SETTINGS: dict[str, Any] = {
    "max_new_tokens": 24,
    "temperature": 0.8,
    "top_p": 0.95,
    "should_stop": is_complete,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(lively_model(), write_tokenizer(folder / "tokenizer"), folder)
    return folder


@pytest.fixture(scope="module")
def pool(checkpoint: Path) -> Iterator[SamplerPool]:
    """A pool of a single process, which needs seconds to start."""
    with SamplerPool(checkpoint, ["cpu"]) as pool:
        yield pool


def requests() -> deque[TextRequest[tuple[str, int]]]:
    """Prompts with one sample or several."""
    prompts = ["def add(a, b):\n", "x = ", "#"]
    return deque(
        TextRequest((prompt, number), prompt, 100 * index + number, 24, scored_from=0)
        for index, prompt in enumerate(prompts)
        for number in range(3 * index + 1)
    )


def test_two_processes_generate_the_same_completions_as_one(checkpoint: Path) -> None:
    expected = {
        completion.key: completion
        for completion in Sampler(checkpoint).generate(requests(), **SETTINGS)
    }
    with SamplerPool(checkpoint, ["cpu", "cpu"]) as pool:
        assert pool.context_length == TINY.context_length
        for _ in range(2):  # a pool generates several sets in succession
            completions = {
                completion.key: completion for completion in pool.generate(requests(), **SETTINGS)
            }
            assert completions == expected
        turns: deque[TextRequest[int]] = deque([TextRequest(0, "x", 1, 24)])
        texts = []
        for completion in pool.generate(turns, **SETTINGS):
            texts.append(completion.text)
            if len(texts) < 3:
                turns.append(TextRequest(completion.key + 1, f"x{completion.text}\n", 1, 24))
    assert len(texts) == 3
    (alone,) = Sampler(checkpoint).generate(
        deque([TextRequest(2, f"x{texts[1]}\n", 1, 24)]), **SETTINGS
    )
    assert alone.text == texts[2]


def test_a_call_has_its_own_settings_after_a_closed_call(
    checkpoint: Path, pool: SamplerPool
) -> None:
    """The process still works on the first call when the second starts."""
    first_requests = deque(TextRequest(number, f"x{number}", number, 48) for number in range(8))
    greedy = SETTINGS | {"temperature": 0}
    expected = {
        completion.key: completion
        for completion in Sampler(checkpoint).generate(requests(), **greedy)
    }
    closed = pool.generate(first_requests, max_new_tokens=48, temperature=1.0, top_p=1.0)
    next(closed)
    closed.close()  # type: ignore[attr-defined]
    assert {
        completion.key: completion for completion in pool.generate(requests(), **greedy)
    } == expected


def test_a_cancelled_call_ends_its_samples(checkpoint: Path, pool: SamplerPool) -> None:
    """The samples of the first call would take longer than the time limit of tests."""
    many = deque(TextRequest(number, "x", number, 48) for number in range(100_000))
    expected = {
        completion.key: completion
        for completion in Sampler(checkpoint).generate(requests(), **SETTINGS)
    }
    answers = iter([False, True])
    cancelled = pool.generate(
        many,
        max_new_tokens=48,
        temperature=1.0,
        top_p=1.0,
        is_cancelled=lambda: next(answers, True),
    )
    assert len(list(cancelled)) <= 1
    assert {
        completion.key: completion for completion in pool.generate(requests(), **SETTINGS)
    } == expected


def test_calls_in_quick_succession_do_not_mix(checkpoint: Path, pool: SamplerPool) -> None:
    """A process may not have noticed yet that the previous call ended."""
    sampler = Sampler(checkpoint)
    settings = [SETTINGS | {"temperature": number % 2} for number in range(20)]
    completions = [
        list(pool.generate(deque([TextRequest(0, "x = ", 1, 24)]), **call)) for call in settings
    ]
    hot, cold = (
        list(sampler.generate(deque([TextRequest(0, "x = ", 1, 24)]), **settings[number]))
        for number in (1, 0)
    )
    assert hot != cold
    assert completions == [cold, hot] * 10


def test_a_process_that_dies_raises_an_error(checkpoint: Path) -> None:
    with SamplerPool(checkpoint, ["cpu"]) as pool:
        (victim,) = pool._processes
        drawn = pool.generate(requests(), **SETTINGS)
        first: TextCompletion[tuple[str, int]] = next(drawn)
        assert first.key[0] in ("def add(a, b):\n", "x = ", "#")
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGSTOP)  # it cannot finish before it is killed
        os.kill(victim.pid, signal.SIGKILL)
        with pytest.raises(EvaluationError, match="exit code -9"):
            list(drawn)


def test_an_error_in_a_process_is_raised(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    with (
        SamplerPool(tmp_path, ["cpu"]) as pool,
        pytest.raises(EvaluationError, match=r"tokenizer\.json does not exist"),
    ):
        list(pool.generate(requests(), **SETTINGS))


def test_processes_exit_when_the_parent_is_killed(checkpoint: Path) -> None:
    program = (
        "import pathlib, sys, time\n"
        "from components.evaluation.sampling.sampler_pool import SamplerPool\n"
        "if __name__ == '__main__':\n"
        f"    pool = SamplerPool(pathlib.Path({str(checkpoint)!r}), ['cpu'])\n"
        "    print(pool._processes[0].pid, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate(timeout=120)
    assert child.wait(timeout=60) is None  # not our child, so there is no exit code


def test_a_caller_exits_after_a_process_died_with_many_open_requests(
    checkpoint: Path,
) -> None:
    program = (
        "import collections, pathlib\n"
        "from components.evaluation.sampling.sampler_pool import SamplerPool\n"
        "from components.evaluation.sampling.sampler import TextRequest\n"
        "if __name__ == '__main__':\n"
        "    requests = collections.deque("
        "TextRequest(n, f'{n} ' * 99, n, 8) for n in range(3000))\n"
        f"    with SamplerPool(pathlib.Path({str(checkpoint)!r}), ['cpu']) as pool:\n"
        "        drawn = pool.generate(requests, max_new_tokens=8, temperature=1.0, top_p=1.0)\n"
        "        next(drawn)\n"
        "        pool._processes[0].kill()\n"
        "        list(drawn)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert "exit code -9" in finished.stderr
    assert finished.returncode == 1


def test_a_small_model_gets_a_process_per_core(checkpoint: Path) -> None:
    torch.set_num_threads(3)
    try:
        assert sampling_devices(checkpoint) == ["cpu"] * 3
    finally:
        torch.set_num_threads(1)
    with open_sampler(checkpoint) as sampler:
        assert isinstance(sampler, Sampler)
