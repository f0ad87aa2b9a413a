"""Recipes are identity, executions are place, and the command line tells the two apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.projects import new_project

from components.core.config import Config
from components.core.errors import ConfigError, EvaluationError
from components.core.files import read_json
from components.data.filters.documents import is_held_out
from flows.runtime.health_checks import preflight_check
from flows.settings.execution import Execution
from flows.settings.recipes import RECIPES, Recipe, recipe


@pytest.mark.parametrize(
    ("name", "billions", "global_batch_tokens", "nl_rate"),
    # docs/paper.md, sections 2 and 3
    [
        ("350m", 0.357, 524_288, 3.0e-4),
        ("2b", 2.78, 1_048_576, 1.6e-4),
        ("6b", 7.06, 1_048_576, 1.2e-4),
        ("16b", 16.03, 2_097_152, 0.9e-4),
    ],
)
def test_the_papers_recipes_have_the_papers_figures(
    name: str, billions: float, global_batch_tokens: int, nl_rate: float
) -> None:
    made = recipe(name)
    assert made.model.num_parameters / 1e9 == pytest.approx(billions, abs=0.006)
    stages = made.training.stages
    assert (stages.nl.steps, stages.multi.steps, stages.mono.steps) == (350_000, 150_000, 150_000)
    assert (stages.nl.global_batch_tokens, stages.nl.learning_rate) == (
        global_batch_tokens,
        nl_rate,
    )
    assert stages.nl.min_learning_rate == pytest.approx(nl_rate / 10)
    assert made.tokenizer.num_ids == 50_295 <= made.model.padded_vocab_size == 51_200


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_fits_together(name: str) -> None:
    made = recipe(name)
    assert made.tokenizer.num_ids <= made.model.padded_vocab_size
    for stage in (made.training.stages.nl, made.training.stages.multi, made.training.stages.mono):
        assert stage.global_batch_tokens % made.model.context_length == 0
        assert stage.warmup_steps + stage.decay_steps <= stage.steps
    assert Recipe.parse(made.model_dump(mode="json")) == made


PROJECT = Path(__file__).parents[3]


@pytest.mark.parametrize("seed", range(12))
def test_tiny_holds_out_at_least_one_sequence_of_each_language(seed: int) -> None:
    """Of the three languages with the fewest documents; SHA-256 and tokens of each are from documents.parquet of `tiny`."""
    pinned = read_json(PROJECT / "tests" / "golden" / "tiny_documents.json")
    assert (
        pinned["md5"]
        == read_json(PROJECT / "components" / "data" / "archives" / "corpus.json")["dvc_md5"][
            "tiny"
        ]
    )
    made = recipe("tiny")
    fraction = made.data.held_out_fraction
    for name, documents in pinned["documents"].items():
        held = [
            tokens
            for sha256, tokens in documents
            if is_held_out(bytes.fromhex(sha256), fraction, seed)
        ]
        assert sum(held) >= made.model.context_length, name
        assert len(held) < len(documents), name


def _paths(config: type[Config], prefix: str = "") -> set[str]:
    paths = set()
    for name, field in config.model_fields.items():
        paths.add(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            paths |= _paths(field.annotation, f"{prefix}{name}.")
    return paths


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("evaluation.humaneval.k=[1,0]", "greater than or equal to 1"),
        ("evaluation.humaneval.temperatures=[0.2,0.2]", "temperatures must differ"),
        ("evaluation.humaneval.temperatures=[0.2,0.2000001]", "temperatures must differ"),
        ("evaluation.mtpb.cases=[0,0]", "cases must differ"),
    ],
)
def test_sets_and_figures_that_cannot_be_are_refused_before_anything_is_drawn(
    assignment: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe("350m").override([assignment])


def test_no_place_is_part_of_a_recipe() -> None:
    # Two rooms have a part in both, whose fields are compared one by one.
    places = {path.rsplit(".", 1)[-1] for path in _paths(Execution)} - {"training", "data"}
    identity = {path.rsplit(".", 1)[-1] for path in _paths(Recipe)}
    assert not places & identity


def test_an_unknown_recipe_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="starter, tiny, 350m"):
        recipe("stater")


def codegen(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_misspelt_field_is_one_clear_error_and_nothing_is_made(tmp_path: Path) -> None:
    done = codegen("run", "--set", "training.stages.nl.step=3", "--exec", f"project={tmp_path}")
    assert done.returncode == 1
    assert "did you mean 'training.stages.nl.steps'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_looking_at_a_recipe_prints_all_of_it() -> None:
    done = codegen("recipe", "show", "tiny", "--set", "seed=7")
    assert done.returncode == 0
    assert Recipe.parse(json.loads(done.stdout)).seed == 7


@pytest.mark.parametrize("name", ["", "../../evil", "a/b", ".hidden", "-x", "Upper", "a b", "a\n"])
def test_a_name_that_is_no_folders_name_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"(?s)name is .*expected: lower-case.*fix: .*--set name="
    ):
        recipe("tiny").replace(name=name)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        (
            "model.padded_vocab_size=700",
            "model.padded_vocab_size is 700",
        ),  # 256 + 500 + 1 + 38 = 795 ids
        ("tokenizer.num_merges=602", "model.padded_vocab_size is 896"),  # 897 ids
        (
            "training.stages.multi.global_batch_tokens=1000",
            "training.stages.multi.global_batch_tokens is 1,000",
        ),
        (
            "evaluation.humaneval.max_new_tokens=256",
            "evaluation.humaneval.max_new_tokens makes completions of 256",
        ),
        (
            "evaluation.mtpb.max_new_tokens=300",
            "evaluation.mtpb.max_new_tokens makes completions of 600",
        ),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_when_it_is_read(override: str, named: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){named}.*expected: .*fix: "):
        recipe("tiny").override([override])


def test_a_recipe_that_just_fits_is_taken() -> None:
    assert (
        recipe("tiny")
        .override(["tokenizer.num_merges=601", "evaluation.mtpb.max_new_tokens=127"])
        .model.padded_vocab_size
        == 896
    )


def test_inputs_that_need_the_place_are_checked_too(tmp_path: Path) -> None:
    preflight_check(recipe("tiny"), Execution(project=str(tmp_path)))
    with pytest.raises(ConfigError, match="world_size is 3"):
        preflight_check(
            recipe("tiny"), Execution(project=str(tmp_path)).override(["training.world_size=3"])
        )
    with pytest.raises(EvaluationError):
        preflight_check(
            recipe("tiny"),
            Execution(project=str(tmp_path), mtpb_path=str(tmp_path / "absent.jsonl")),
        )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("artifacts", "--kind", "bogus"), "there is no kind 'bogus'"),
        (
            ("artifacts", "--exec", "project=/nonexistent/project"),
            "project is /nonexistent/project, which is no folder",
        ),
        (("artifacts", "--exec", "workspace=/etc/passwd"), "/etc/passwd cannot be made"),
        (("doctor", "--exec", "workspace=/proc/x"), "/proc/x cannot be made"),
        (("artifacts", "--exec", "store=nosuch://nope/x"), "nosuch://nope/x cannot be opened"),
        (("prepare", "-r", "tiny", "--exec", "min_free_disk_mb=1000000000"), "MB are free at"),
        (("data", "status", "--damaged"), "data.dvc is damaged"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_place_that_cannot_be_is_three_lines(
    tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    if "--damaged" in arguments:
        tmp_path = new_project(tmp_path / "project")
        (tmp_path / "data.dvc").write_text("outs:\n- md5: 12")
        arguments = arguments[:-1]
    places = (
        () if any("project=" in one for one in arguments) else ("--exec", f"project={tmp_path}")
    )
    done = codegen(*arguments, *places)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    first, *rest = done.stderr[done.stderr.index("✗") :].strip().splitlines()
    assert named in first
    assert [line.split(":")[0].strip() for line in rest] == ["expected", "fix"]
    assert not (tmp_path / "var/store").exists()
