"""Sample sets: their order, and how an interrupted run resumes."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.scripted import ScriptedSampler

from components.core.errors import ConfigError
from components.core.files import read_json, read_jsonl
from components.evaluation.benchmarks.problem import Benchmark, Problem, UnitTests
from components.evaluation.benchmarks.protocol import SampleSet
from components.evaluation.sampling.sampler import TextCompletion, TextRequest
from components.evaluation.sampling.samples import GeneratedSample, generate_samples

BENCHMARK = Benchmark(
    "talk",
    "0" * 64,
    (
        Problem(
            "a",
            ("# one\n", "# two\n", "# three\n"),
            UnitTests("", ""),
            40,
            suffix="\n\n",
            unscored_prefix="# ",
        ),
        Problem("b", ("def f():\n",), UnitTests("", "")),
    ),
)
SAMPLE_SET = SampleSet("t0.2", BENCHMARK, 3, 0.2, 0.95, 50, scores_prompts=True)


def write_seed(request: TextRequest[Any]) -> str:
    """A different completion for every seed, with text to truncate."""
    return f"x = {request.seed}\n# more"


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def generate(folder: Path, sampler: ScriptedSampler | None = None) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return generate_samples(folder, SAMPLE_SET, sampler or ScriptedSampler(write_seed), 5)


def requested_samples(sampler: ScriptedSampler) -> set[tuple[str, int]]:
    samples = [request.key for request in sampler.requests]
    return {(sample.problem.task_id, sample.number) for sample in samples}


def journal_in(folder: Path) -> Path:
    (journal,) = (path for path in folder.iterdir() if "journal" in path.name)
    return journal


def test_a_set_has_every_sample_of_every_problem_in_order(tmp_path: Path) -> None:
    sampler = ScriptedSampler(write_seed)
    statistics = generate(tmp_path, sampler)
    records = list(read_jsonl(tmp_path / "samples.jsonl"))
    assert [(record["task_id"], record["sample"]) for record in records] == [
        (task, number) for task in "ab" for number in range(3)
    ]
    assert all(len(record["completions"]) == 3 for record in records[:3])
    for record in records[3:]:
        assert record["completion"].endswith("\n")
        assert "more" not in record["completion"]
    assert statistics["num_samples"] == 6
    assert statistics["num_truncated"] == 3 * 3 + 3
    assert {request.max_new_tokens for request in sampler.requests} == {40, 50}
    # Turns of `a`: 4, 6 and 8 characters; the first `# ` does not count.
    assert {record["prompt_tokens"] for record in records[:3]} == {4 + 6 + 8}
    third = next(request for request in sampler.requests if request.prompt.endswith("# three\n"))
    first_completion, second_completion = third.key.completions
    assert third.prompt == (f"# one\n{first_completion}\n\n# two\n{second_completion}\n\n# three\n")
    assert third.scored_from == len(third.prompt) - len("# three\n")


class InterruptedSampler(ScriptedSampler):
    """Raises before its `after`-th completion."""

    def __init__(self, after: int) -> None:
        super().__init__(write_seed)
        self.after = after

    def generate(
        self, requests: deque[TextRequest[Any]], **settings: Any
    ) -> Iterator[TextCompletion[Any]]:
        for number, completion in enumerate(super().generate(requests, **settings)):
            if number == self.after:
                raise KeyboardInterrupt
            yield completion


def interrupt(folder: Path, after: int) -> Path:
    """Interrupt a run and return its journal."""
    with pytest.raises(KeyboardInterrupt):
        generate(folder, InterruptedSampler(after))
    return journal_in(folder)


@pytest.mark.parametrize("after", [0, 1, 5, 9, 11])
@pytest.mark.parametrize("torn", [b"", b'{"task_id": "a", "sam', b'{"task_id": "b"}'])
def test_an_interrupted_run_resumes_and_writes_the_same_bytes(
    tmp_path: Path, after: int, torn: bytes
) -> None:
    generate(tmp_path / "complete")
    journal = interrupt(tmp_path / "interrupted", after)
    num_journaled = len(list(read_jsonl(journal)))
    with journal.open("ab") as file:
        file.write(torn)
    sampler = ScriptedSampler(write_seed)
    generate(tmp_path / "interrupted", sampler)
    assert read_files(tmp_path / "interrupted") == read_files(tmp_path / "complete")
    assert len(requested_samples(sampler)) == 6 - num_journaled
    timings = read_json(tmp_path / "interrupted" / "observed" / "timings.json")
    assert timings["num_resumed_samples"] == num_journaled


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 40,
        b'{"task_id": "a"}',
        b'{"task_id": "gone", "sample": 0}',
        b"7",
        b"\xff\xfe",
        b'{"sample": 1, "ta',
    ],
)
def test_a_damaged_line_in_the_middle_of_a_journal_is_generated_again(
    tmp_path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A power failure may leave blocks of zeros."""
    generate(tmp_path / "complete")
    journal = interrupt(tmp_path / "interrupted", 10)
    first, second, *remaining = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([first, garbage + b"\n", *remaining]))
    sampler = ScriptedSampler(write_seed)
    generate(tmp_path / "interrupted", sampler)
    assert read_files(tmp_path / "interrupted") == read_files(tmp_path / "complete")
    lost = json.loads(second)
    assert (lost["task_id"], lost["sample"]) in requested_samples(sampler)
    assert "1 damaged lines" in caplog.text


def test_resumed_samples_are_reported_like_new_samples(tmp_path: Path) -> None:
    """So that the executor receives every sample."""
    interrupt(tmp_path, 8)
    reported: list[GeneratedSample] = []
    generate_samples(tmp_path, SAMPLE_SET, ScriptedSampler(write_seed), 5, reported.append)
    assert sorted((sample.problem.task_id, sample.number) for sample in reported) == [
        (task, number) for task in "ab" for number in range(3)
    ]


def test_samples_do_not_depend_on_other_problems_or_the_number_of_samples(tmp_path: Path) -> None:
    generate(tmp_path)
    last_problem = BENCHMARK._replace(problems=BENCHMARK.problems[1:])
    fewer = SAMPLE_SET._replace(benchmark=last_problem, num_samples=2)
    (tmp_path / "fewer").mkdir()
    generate_samples(tmp_path / "fewer", fewer, ScriptedSampler(write_seed), 5)
    expected = list(read_jsonl(tmp_path / "samples.jsonl"))[3:5]
    assert list(read_jsonl(tmp_path / "fewer" / "samples.jsonl")) == expected


def test_a_completion_as_long_as_the_context_is_refused(tmp_path: Path) -> None:
    too_long = SAMPLE_SET._replace(max_new_tokens=10_000)
    with pytest.raises(
        ConfigError, match=r"(?s)completions of 10,000 tokens.*context, 10,000.*2,500 at most"
    ):
        generate_samples(tmp_path, too_long, ScriptedSampler(write_seed), 5)
