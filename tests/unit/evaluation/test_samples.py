"""Sets of samples: the order in which they come, and what a killed run leaves."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted

from components.core.errors import ConfigError
from components.core.files import read_json, read_jsonl
from components.evaluation.benchmarks.problem import Benchmark, Problem, UnitTests
from components.evaluation.benchmarks.protocol import SampleSet
from components.evaluation.sampling.sampler import TextCompletion, TextRequest
from components.evaluation.sampling.samples import GeneratedSample, generate_samples

TALK = Benchmark(
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
DRAW = SampleSet("t0.2", TALK, 3, 0.2, 0.95, 50, scores_prompts=True)


def answer(request: TextRequest[Any]) -> str:
    """Another one for every seed, with something to be cut off."""
    return f"x = {request.seed}\n# more"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def drawn(folder: Path, sampler: Scripted | None = None) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return generate_samples(folder, DRAW, sampler or Scripted(answer), 5)


def test_a_set_has_every_sample_of_every_problem_in_order(tmp_path: Path) -> None:
    sampler = Scripted(answer)
    statistics = drawn(tmp_path, sampler)
    records = list(read_jsonl(tmp_path / "samples.jsonl"))
    assert [(one["task_id"], one["sample"]) for one in records] == [
        (task, number) for task in "ab" for number in range(3)
    ]
    assert all(len(one["completions"]) == 3 for one in records[:3])
    assert all(
        one["completion"].endswith("\n") and "more" not in one["completion"] for one in records[3:]
    )
    assert statistics["num_samples"] == 6
    assert statistics["num_truncated"] == 3 * 3 + 3
    assert {request.max_new_tokens for request in sampler.asked} == {40, 50}
    # Turns of `a`: 4, 6 and 8 characters; `# ` at the beginning of the first does not count.
    assert {one["prompt_tokens"] for one in records[:3]} == {4 + 6 + 8}
    third = next(one for one in sampler.asked if one.prompt.endswith("# three\n"))
    first, second = (one for one in third.key.completions)
    assert third.prompt == f"# one\n{first}\n\n# two\n{second}\n\n# three\n"
    assert third.scored_from == len(third.prompt) - len("# three\n")


class Interrupted(Scripted):
    """Is killed before its `after`-th answer."""

    def __init__(self, after: int) -> None:
        super().__init__(answer)
        self.after = after

    def draw(
        self, waiting: deque[TextRequest[Any]], **settings: Any
    ) -> Iterator[TextCompletion[Any]]:
        for number, one in enumerate(super().draw(waiting, **settings)):
            if number == self.after:
                raise KeyboardInterrupt
            yield one


@pytest.mark.parametrize("after", [0, 1, 5, 9, 11])
@pytest.mark.parametrize("torn", [b"", b'{"task_id": "a", "sam', b'{"task_id": "b"}'])
def test_a_killed_set_goes_on_and_has_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, after: int, torn: bytes
) -> None:
    drawn(tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path / "killed", Interrupted(after))
    (journal,) = (path for path in (tmp_path / "killed").iterdir() if "journal" in path.name)
    num_kept = len(list(read_jsonl(journal)))
    with journal.open("ab") as file:
        file.write(torn)
    again = Scripted(answer)
    drawn(tmp_path / "killed", again)
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")
    assert len({(one.key.problem.task_id, one.key.number) for one in again.asked}) == 6 - num_kept
    assert (
        read_json(tmp_path / "killed" / "observed" / "timings.json")["num_resumed_samples"]
        == num_kept
    )


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
def test_what_is_no_sample_in_the_middle_of_a_journal_is_drawn_again(
    tmp_path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine that lost its power may leave blocks of zeros."""
    drawn(tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path / "killed", Interrupted(10))
    (journal,) = (path for path in (tmp_path / "killed").iterdir() if "journal" in path.name)
    first, second, *others = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([first, garbage + b"\n", *others]))
    again = Scripted(answer)
    drawn(tmp_path / "killed", again)
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")
    lost = json.loads(second)
    assert (lost["task_id"], lost["sample"]) in {
        (one.key.problem.task_id, one.key.number) for one in again.asked
    }
    assert "1 damaged lines" in caplog.text


def test_what_was_kept_is_told_like_what_is_new(tmp_path: Path) -> None:
    """So that whoever executes programs meanwhile misses none."""
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path, Interrupted(8))
    told: list[GeneratedSample] = []
    generate_samples(tmp_path, DRAW, Scripted(answer), 5, told.append)
    assert sorted((one.problem.task_id, one.number) for one in told) == [
        (task, n) for task in "ab" for n in range(3)
    ]


def test_other_problems_or_more_samples_change_none_that_was_drawn(tmp_path: Path) -> None:
    drawn(tmp_path)
    fewer = DRAW._replace(benchmark=TALK._replace(problems=TALK.problems[1:]), num_samples=2)
    (tmp_path / "fewer").mkdir()
    generate_samples(tmp_path / "fewer", fewer, Scripted(answer), 5)
    assert (
        list(read_jsonl(tmp_path / "fewer" / "samples.jsonl"))
        == list(read_jsonl(tmp_path / "samples.jsonl"))[3:5]
    )


def test_a_completion_as_long_as_the_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"(?s)completions of 10,000 tokens.*context, 10,000.*2,500 at most"
    ):
        generate_samples(tmp_path, DRAW._replace(max_new_tokens=10_000), Scripted(answer), 5)
