"""MTPB end to end on a few problems with hand-written turns, executed in real jails; needs the official file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from components.core.artifact import OBSERVED
from components.core.errors import ConfigError
from components.core.files import read_json, read_jsonl
from components.core.fingerprint import list_files
from components.evaluation.config import MtpbConfig
from components.evaluation.mtpb import PREFIX, run_mtpb

TURNS = {
    "Lowercase the given": "my_string = my_string.lower()",
    "Assign the distinct": "chars = list(set(my_string))\n\n\n\nprint('what follows three line ends is cut')",
    "Sort these characters": "chars = sorted(chars)",
    "Print the resulting list of characters": "print(chars)\n# the next comment is cut\nprint(1)",
    "Create a function that takes a dictionary of objects": (
        'def top(person):\n    return {"name": person["name"], "top_note": max(person["notes"])}'
    ),
    "For each name": 'my_list = [top({"name": name, "notes": notes}) for name, notes in my_notes.items()]',
    "Find the name": 'top_name = max(my_list, key=lambda one: one["top_note"])["name"]',
    "Print the variable top_name": "print(top_name)",
}


class Script:
    """Writes each turn as a person would, from the comment that asks for it."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []
        self.seeds: list[int] = []

    def complete(self, prompts: Sequence[str], *, seeds: Sequence[int], max_new_tokens: int, **_: Any) -> list[str]:
        self.asked += [(max_new_tokens, prompt) for prompt in prompts]
        self.seeds += seeds
        return [self.turn(prompt.rstrip("\n").rsplit("\n", 1)[-1].removeprefix("# ")) for prompt in prompts]

    def turn(self, asked: str) -> str:
        if asked.startswith('Assign the string "'):
            return f"my_string = {asked.split(chr(34))[1]!r}"
        if asked.startswith("Assign the names"):
            notes = asked.split("corresponding notes ")[1].split(" as values")[0]
            return f'my_notes = dict(zip(["Kevin", "John", "Mike", "Mitch"], {notes}))'
        return next(code for start, code in TURNS.items() if asked.startswith(start))


def run(folder: Path, problems_file: Path, script: Script, **settings: Any) -> dict[str, Any]:
    config = MtpbConfig.parse({"num_samples": 1, **settings})
    return run_mtpb(folder, sampler=script, problems_file=problems_file, config=config, workers=2, seed=3)


@pytest.mark.usefixtures("sandbox")
def test_two_problems_solved_turn_by_turn(tmp_path: Path, problems_file: Path) -> None:
    script = Script()
    statistics = run(tmp_path, problems_file, script, problem_ids=[1, 9], cases=[0, 2], num_samples=2, max_new_tokens=100)
    # Problem 9 expects "Mike" in case 2, where the highest note, 9, is John's: nothing right can pass it.
    assert statistics["pass_rate"] == 0.75
    assert statistics["pass_rate_of_passable"] == 1.0
    assert statistics["outcomes"] == {"passed": 6, "wrong_answer": 2}
    assert statistics["num_programs"] == 4
    assert statistics["num_cut"] == 8  # two of problem 1's five turns, four histories
    assert read_json(tmp_path / "results.json")["passes"] == {"1/0": 2, "1/2": 2, "9/0": 2, "9/2": 0}
    assert len(set(script.seeds)) == len(script.seeds) == 40
    assert {most for most, _ in script.asked} == {100}


@pytest.mark.usefixtures("sandbox")
def test_two_runs_leave_the_same_bytes(tmp_path: Path, problems_file: Path) -> None:
    digests = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        run(folder, problems_file, Script(), problem_ids=[9], cases=[0, 2])
        digests.append([(file.path, file.sha256) for file in list_files(folder) if not file.path.startswith(OBSERVED)])
    assert digests[0] == digests[1]
    assert len(digests[0]) == 2


@pytest.mark.usefixtures("sandbox")
def test_the_history_grows_as_upstreams_does(tmp_path: Path, problems_file: Path) -> None:
    script = Script()
    run(tmp_path, problems_file, script, problem_ids=[1], cases=[4])
    (record,) = read_jsonl(tmp_path / "samples.jsonl")
    assert record["completion"] == PREFIX + (
        '# Assign the string "ddddc" to a variable named "my_string".\nmy_string = \'ddddc\'\n\n'
        '# Lowercase the given string "my_string".\nmy_string = my_string.lower()\n\n'
        '# Assign the distinct characters of the string to a variable named "chars".\nchars = list(set(my_string))\n\n'
        "# Sort these characters in alphabetical order.\nchars = sorted(chars)\n\n"
        "# Print the resulting list of characters.\nprint(chars)\n\n\n"
    )
    assert record["outcome"] == "passed"
    assert [most for most, _ in script.asked] == [128] * 5
    assert script.asked[1][1].endswith("my_string = 'ddddc'\n\n# Lowercase the given string \"my_string\".\n")


def test_where_nothing_isolates_there_is_no_rate(
    tmp_path: Path, problems_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    statistics = run(tmp_path / "run", problems_file, Script(), problem_ids=[1], cases=[0])
    assert statistics["executed"] is False
    assert statistics["pass_rate"] is None
    assert statistics["pass_rate_of_passable"] is None
    assert [record["outcome"] for record in read_jsonl(tmp_path / "run" / "samples.jsonl")] == [None]


@pytest.mark.parametrize("settings", [{"problem_ids": [0]}, {"problem_ids": [116]}, {"problem_ids": []}, {"cases": []}])
def test_what_does_not_exist_cannot_be_chosen(tmp_path: Path, problems_file: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="MTPB"):
        run(tmp_path, problems_file, Script(), **settings)
