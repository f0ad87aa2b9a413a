"""Shell completion, through the variables that the completion scripts set."""

from __future__ import annotations

import subprocess

import pytest
from fixtures.codegen_command import run_codegen


def output(**variables: str) -> str:
    result = run_codegen(**variables)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def complete(shell: str, line: str) -> str:
    """Return the completions of the last word of a line."""
    return output(
        COMP_WORDS=line,
        COMP_CWORD=str(len(line.split(" ")) - 1),
        _TYPER_COMPLETE_ARGS=line,
        _CODEGEN_COMPLETE=f"complete_{shell}",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("codegen pr", ["prepare", "promote"]),
        ("codegen models ", ["list", "show", "compare", "history", "rollback", "pull"]),
        ("codegen run --recipe ", ["starter", "tiny", "350m", "2b", "6b", "16b"]),
        ("codegen run -r t", ["tiny"]),
        ("codegen recipe show s", ["starter"]),
        ("codegen train --stage m", ["multi", "mono"]),
        ("codegen plan --gpu a100", ["a100-80", "a100-40"]),
        ("codegen artifacts --kind pre", ["prepared-corpus"]),
        ("codegen export a b --format g", ["gptj"]),
        ("codegen data status --js", ["--json"]),
        ("codegen why --deb", ["--debug"]),
    ],
)
def test_bash_completes_commands_options_and_values(line: str, expected: list[str]) -> None:
    completions = complete("bash", line).split()
    assert set(expected) <= set(completions)
    if line[-1] != " ":
        assert completions == expected


def test_zsh_and_fish_completions_include_the_help() -> None:
    assert '"doctor":"Check this machine' in complete("zsh", "codegen doc")
    assert complete("fish", "codegen doc").startswith("doctor\tCheck this machine")


def test_the_completion_script_is_valid_bash() -> None:
    script = output(_CODEGEN_COMPLETE="source_bash")
    assert "_CODEGEN_COMPLETE=complete_bash" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
