"""MTPB end to end on a few problems with hand-written turns, executed in real jails; needs the
official file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from fixtures.scripted import ScriptedSampler, run_protocol

from components.core.artifact import OBSERVED_DIR
from components.core.errors import ConfigError
from components.core.files import read_json, read_jsonl
from components.core.fingerprint import list_files
from components.evaluation.benchmarks.mtpb import PREFIX, build_protocol
from components.evaluation.config import MtpbConfig
from components.evaluation.sampling.sampler import TextRequest
from components.evaluation.scoring.program_executor import ProgramExecutor

TURNS = {
    "Lowercase the given": "my_string = my_string.lower()",
    "Assign the distinct": (
        "chars = list(set(my_string))\n\n\n\nprint('what follows three line ends is cut')"
    ),
    "Sort these characters": "chars = sorted(chars)",
    "Print the resulting list of characters": "print(chars)\n# the next comment is cut\nprint(1)",
    "Create a function that takes a dictionary of objects": (
        'def top(person):\n    return {"name": person["name"], "top_note": max(person["notes"])}'
    ),
    "For each name": (
        'my_list = [top({"name": name, "notes": notes}) for name, notes in my_notes.items()]'
    ),
    "Find the name": 'top_name = max(my_list, key=lambda one: one["top_note"])["name"]',
    "Print the variable top_name": "print(top_name)",
}


def write_turn(prompt: str) -> str:
    """Return the hand-written code for the prompt of a turn."""
    if prompt.startswith('Assign the string "'):
        return f"my_string = {prompt.split(chr(34))[1]!r}"
    if prompt.startswith("Assign the names"):
        notes = prompt.split("corresponding notes ")[1].split(" as values")[0]
        return f'my_notes = dict(zip(["Kevin", "John", "Mike", "Mitch"], {notes}))'
    return next(code for start, code in TURNS.items() if prompt.startswith(start))


def turn_by_turn(request: TextRequest[Any]) -> str:
    """Solve each turn; solve a single turn with all prompts for problem 1 only."""
    comments = request.prompt.removeprefix(PREFIX).rstrip("\n").split("\n")
    if len(comments) > 1 and all(comment.startswith("# ") for comment in comments):
        return (
            f"print(sorted(set({comments[0].split(chr(34))[1]!r}.lower())))"
            if "distinct" in request.prompt
            else ""
        )
    return write_turn(comments[-1].removeprefix("# "))


def run(
    folder: Path,
    problems_file: Path,
    executor: ProgramExecutor,
    sampler: ScriptedSampler | None = None,
    **settings: Any,
) -> dict[str, Any]:
    protocol = build_protocol(MtpbConfig.parse({"num_samples": 1, **settings}), problems_file)
    return run_protocol(folder, protocol, sampler or ScriptedSampler(turn_by_turn), executor)


def test_two_problems_solved_turn_by_turn(
    tmp_path: Path, problems_file: Path, executor: ProgramExecutor
) -> None:
    sampler = ScriptedSampler(turn_by_turn)
    statistics = run(
        tmp_path,
        problems_file,
        executor,
        sampler,
        problem_ids=[1, 9],
        cases=[0, 2],
        num_samples=2,
        max_new_tokens=100,
    )
    # Problem 9 expects "Mike" in case 2, but John has the highest note: no correct program passes.
    assert statistics["pass_rate_multi"] == 0.75
    assert statistics["pass_rate_solvable_multi"] == 1.0
    assert statistics["pass_rate_single"] == 0.5
    assert statistics["pass_rate_solvable_single"] == pytest.approx(2 / 3)
    results = read_json(tmp_path / "evaluation" / "results.json")
    assert results["sets"]["multi"]["outcomes"] == {"passed": 6, "wrong_answer": 2}
    # Two of problem 1's five turns, in four histories.
    assert results["sets"]["multi"]["num_truncated"] == 8
    assert results["sets"]["multi"]["passes"] == {"1/0": 2, "1/2": 2, "9/0": 2, "9/2": 0}
    assert results["sets"]["single"]["passes"] == {"1/0": 2, "1/2": 2, "9/0": 0, "9/2": 0}
    assert results["rates"]["multi"]["problem"] == {"1": 1.0, "9": 0.5}
    # Problem 1 is easy and problem 9 (half passed) is medium; a single turn uses the same
    # difficulty.
    assert results["num_by_difficulty"] == {"easy": 1, "medium": 1}
    assert results["rates"]["single"]["difficulty"] == {"easy": 1.0, "medium": 0.0}
    assert results["rates"]["multi"]["num_turns"] == {"5": 0.75}
    seeds = [request.seed for request in sampler.requests]
    assert len(set(seeds)) == len(seeds) == 2 * (2 * 5 + 2 * 5) + 2 * 4
    assert {request.max_new_tokens for request in sampler.requests} == {100, 200}


def test_perplexity_covers_the_tokens_of_prompts_only(
    tmp_path: Path, problems_file: Path, executor: ProgramExecutor
) -> None:
    """The scripted sampler reports a token per character, each of probability 1/e."""
    statistics = run(tmp_path, problems_file, executor, problem_ids=[1, 9], cases=[0, 2])
    assert statistics["prompt_perplexity_multi"] == pytest.approx(math.e)
    results = read_json(tmp_path / "evaluation" / "results.json")
    assert (
        results["perplexity"]["multi"]["passed"]
        == results["perplexity"]["single"]["failed"]
        == pytest.approx(math.e)
    )
    by_task = {
        (record["set"], record["task_id"]): record
        for record in read_jsonl(tmp_path / "evaluation" / "samples.jsonl")
    }
    problem = (
        build_protocol(MtpbConfig(problem_ids=(1,), cases=(0,)), problems_file)
        .sample_sets[1]
        .benchmark.problems[0]
    )
    num_characters = len(problem.turns[0]) - len(PREFIX)
    assert (
        by_task["multi", "1/0"]["prompt_tokens"]
        == by_task["single", "1/0"]["prompt_tokens"]
        == num_characters
    )


def test_two_runs_write_the_same_bytes(
    tmp_path: Path, problems_file: Path, executor: ProgramExecutor
) -> None:
    digests = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        run(folder, problems_file, executor, problem_ids=[9], cases=[0, 2])
        files = [
            *list_files(folder / "evaluation"),
            *list_files(folder / "multi"),
            *list_files(folder / "single"),
        ]
        digests.append(
            [(file.path, file.sha256) for file in files if not file.path.startswith(OBSERVED_DIR)]
        )
    assert digests[0] == digests[1]
    assert len(digests[0]) == 4


def test_the_history_grows_as_in_the_upstream_script(
    tmp_path: Path, problems_file: Path, executor: ProgramExecutor
) -> None:
    sampler = ScriptedSampler(turn_by_turn)
    run(tmp_path, problems_file, executor, sampler, problem_ids=[1], cases=[4], single_turn=False)
    (record,) = read_jsonl(tmp_path / "evaluation" / "samples.jsonl")
    problem = (
        build_protocol(MtpbConfig(problem_ids=(1,), cases=(4,)), problems_file)
        .sample_sets[0]
        .benchmark.problems[0]
    )
    assert problem.text(record["completions"]) == PREFIX + (
        '# Assign the string "ddddc" to a variable named "my_string".\nmy_string = \'ddddc\'\n\n'
        '# Lowercase the given string "my_string".\nmy_string = my_string.lower()\n\n'
        '# Assign the distinct characters of the string to a variable named "chars".\n'
        "chars = list(set(my_string))\n\n"
        "# Sort these characters in alphabetical order.\nchars = sorted(chars)\n\n"
        "# Print the resulting list of characters.\nprint(chars)\n\n\n"
    )
    assert record["outcome"] == "passed"
    assert [request.max_new_tokens for request in sampler.requests] == [128] * 5
    assert sampler.requests[1].prompt.endswith(
        "my_string = 'ddddc'\n\n# Lowercase the given string \"my_string\".\n"
    )


def test_a_single_turn_joins_all_prompts(problems_file: Path) -> None:
    single = build_protocol(MtpbConfig(problem_ids=(1,), cases=(4,)), problems_file).sample_sets[1]
    (problem,) = single.benchmark.problems
    assert problem.turns == (
        f'{PREFIX}# Assign the string "ddddc" to a variable named "my_string".\n'
        '# Lowercase the given string "my_string".\n'
        '# Assign the distinct characters of the string to a variable named "chars".\n'
        "# Sort these characters in alphabetical order.\n"
        "# Print the resulting list of characters.\n",
    )
    assert (problem.max_new_tokens, single.max_new_tokens) == (5 * 128, 2 * 512)


def test_without_a_sandbox_there_is_no_pass_rate(
    tmp_path: Path, problems_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with ProgramExecutor(workers=1, kind="bubblewrap") as executor:
        statistics = run(tmp_path / "run", problems_file, executor, problem_ids=[1], cases=[0])
    assert statistics["executed"] is False
    assert "pass_rate_multi" not in statistics
    assert statistics["prompt_perplexity_multi"] == pytest.approx(math.e)
    records = list(read_jsonl(tmp_path / "run" / "evaluation" / "samples.jsonl"))
    assert [record["outcome"] for record in records] == [None, None]


@pytest.mark.parametrize(
    "settings", [{"problem_ids": [0]}, {"problem_ids": [116]}, {"problem_ids": []}, {"cases": []}]
)
def test_unknown_problems_and_empty_choices_are_refused(
    problems_file: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="MTPB"):
        build_protocol(MtpbConfig.parse(settings), problems_file)
