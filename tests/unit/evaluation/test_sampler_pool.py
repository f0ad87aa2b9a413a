"""Processes that draw together, against one that draws alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

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

SETTINGS = {"max_new_tokens": 24, "temperature": 0.8, "top_p": 0.95, "should_stop": is_complete}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(lively_model(), write_tokenizer(folder / "tokenizer"), folder)
    return folder


def requests() -> deque[TextRequest[tuple[str, int]]]:
    """Some prompts alone, some of several samples."""
    prompts = ["def add(a, b):\n", "x = ", "#"]
    return deque(
        TextRequest((prompt, number), prompt, 100 * place + number, 24, scored_from=0)
        for place, prompt in enumerate(prompts)
        for number in range(3 * place + 1)
    )


def test_two_processes_draw_what_one_draws(checkpoint: Path) -> None:
    expected = {one.key: one for one in Sampler(checkpoint).generate(requests(), **SETTINGS)}  # type: ignore[arg-type]
    with SamplerPool(checkpoint, ["cpu", "cpu"]) as pool:
        assert pool.context_length == TINY.context_length
        for _ in range(2):  # A pool draws one set after the other.
            drawn = {one.key: one for one in pool.generate(requests(), **SETTINGS)}  # type: ignore[arg-type]
            assert drawn == expected
        turns: deque[TextRequest[int]] = deque([TextRequest(0, "x", 1, 24)])
        texts = []
        for one in pool.generate(turns, **SETTINGS):  # type: ignore[arg-type]
            texts.append(one.text)
            if len(texts) < 3:
                turns.append(TextRequest(one.key + 1, f"x{one.text}\n", 1, 24))
    assert len(texts) == 3
    (alone,) = Sampler(checkpoint).generate(
        deque([TextRequest(2, f"x{texts[1]}\n", 1, 24)]), **SETTINGS
    )  # type: ignore[arg-type]
    assert alone.text == texts[2]


def test_a_draw_has_its_own_settings_though_the_one_before_was_given_up(checkpoint: Path) -> None:
    """The process is still at work on the first when the second is asked for."""
    others = deque(TextRequest(place, f"x{place}", place, 48) for place in range(8))
    greedy = SETTINGS | {"temperature": 0}
    expected = {one.key: one for one in Sampler(checkpoint).generate(requests(), **greedy)}  # type: ignore[arg-type]
    with SamplerPool(checkpoint, ["cpu"]) as pool:
        given_up = pool.generate(others, max_new_tokens=48, temperature=1.0, top_p=1.0)
        next(given_up)
        given_up.close()  # type: ignore[attr-defined]
        assert {one.key: one for one in pool.generate(requests(), **greedy)} == expected  # type: ignore[arg-type]


def test_draws_that_follow_at_once_keep_apart(checkpoint: Path) -> None:
    """A process may not have seen yet that the one before is done."""
    sampler = Sampler(checkpoint)
    asked = [SETTINGS | {"temperature": number % 2} for number in range(20)]
    with SamplerPool(checkpoint, ["cpu"]) as pool:
        drawn = [
            list(pool.generate(deque([TextRequest(0, "x = ", 1, 24)]), **one)) for one in asked
        ]  # type: ignore[arg-type]
    hot, cold = (
        list(sampler.generate(deque([TextRequest(0, "x = ", 1, 24)]), **asked[number]))  # type: ignore[arg-type]
        for number in (1, 0)
    )
    assert hot != cold
    assert drawn == [cold, hot] * 10


def test_a_process_that_dies_is_an_error_and_not_a_wait(checkpoint: Path) -> None:
    with SamplerPool(checkpoint, ["cpu"]) as pool:
        (victim,) = pool._processes
        drawn = pool.generate(requests(), **SETTINGS)  # type: ignore[arg-type]
        first: TextCompletion[tuple[str, int]] = next(drawn)
        assert first.key[0] in ("def add(a, b):\n", "x = ", "#")
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGSTOP)  # So that it cannot finish before it is killed.
        os.kill(victim.pid, signal.SIGKILL)
        with pytest.raises(EvaluationError, match="exit code -9"):
            list(drawn)


def test_what_a_process_cannot_do_is_told(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    with (
        SamplerPool(tmp_path, ["cpu"]) as pool,
        pytest.raises(EvaluationError, match=r"tokenizer\.json does not exist"),
    ):
        list(pool.generate(requests(), **SETTINGS))  # type: ignore[arg-type]


def test_processes_end_with_a_parent_that_is_killed(checkpoint: Path) -> None:
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
    parent.communicate(timeout=30)
    assert (
        child.wait(timeout=60) is None
    )  # Not our child: there is no exit code to be had, only the end.


def test_an_evaluation_whose_process_died_ends_though_much_was_still_to_be_drawn(
    checkpoint: Path,
) -> None:
    program = (
        "import collections, pathlib\n"
        "from components.evaluation.sampling.sampler_pool import SamplerPool\n"
        "from components.evaluation.sampling.sampler import TextRequest\n"
        "if __name__ == '__main__':\n"
        "    waiting = collections.deque(TextRequest(n, f'{n} ' * 99, n, 8) for n in range(3000))\n"
        f"    with SamplerPool(pathlib.Path({str(checkpoint)!r}), ['cpu']) as pool:\n"
        "        drawn = pool.draw(waiting, max_new_tokens=8, temperature=1.0, top_p=1.0)\n"
        "        next(drawn)\n"
        "        pool._processes[0].kill()\n"
        "        list(drawn)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert "exit code -9" in ended.stderr
    assert ended.returncode == 1


def test_a_small_model_gets_a_process_a_core(checkpoint: Path) -> None:
    torch.set_num_threads(3)
    try:
        assert sampling_devices(checkpoint) == ["cpu"] * 3
    finally:
        torch.set_num_threads(1)
    with open_sampler(checkpoint) as sampler:
        assert isinstance(sampler, Sampler)
