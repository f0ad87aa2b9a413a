"""Recipes and execution config: consistency checks, and errors of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fixtures.codegen_command import run_codegen
from fixtures.projects import new_project

from components.core.artifact import Artifact
from components.core.config import Config
from components.core.errors import ConfigError, EvaluationError
from components.core.files import read_json
from components.core.fingerprint import fingerprint
from components.data.filters.documents import is_held_out
from flows.runtime.health_checks import preflight_check
from flows.settings.execution import Execution
from flows.settings.recipes import RECIPES, Recipe, recipe, tiny
from flows.steps.corpora import pull_prepared, push_prepared
from flows.steps.epochs import require_few_epochs, stage_epochs, tokens_of_prepared
from flows.steps.stage_gate import next_stage
from flows.steps.stage_training import stage_config


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
def test_recipes_of_the_paper_have_the_numbers_of_the_paper(
    name: str, billions: float, global_batch_tokens: int, nl_rate: float
) -> None:
    config = recipe(name)
    assert config.model.num_parameters / 1e9 == pytest.approx(billions, abs=0.006)
    stages = config.training.stages
    assert [stages[name].steps for name in ("nl", "multi", "mono")] == [350_000, 150_000, 150_000]
    assert (stages["nl"].global_batch_tokens, stages["nl"].learning_rate) == (
        global_batch_tokens,
        nl_rate,
    )
    assert stages["nl"].min_learning_rate == pytest.approx(nl_rate / 10)
    assert config.tokenizer.num_ids == 50_295 <= config.model.padded_vocab_size == 51_200


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_consistent(name: str) -> None:
    config = recipe(name)
    assert config.tokenizer.num_ids <= config.model.padded_vocab_size
    assert config.training.all_stages == ("nl", "multi", "mono")
    for stage in config.training.stages.values():
        assert stage.global_batch_tokens % config.model.context_length == 0
        assert stage.warmup_steps + stage.decay_steps <= stage.steps
    assert Recipe.parse(config.model_dump(mode="json")) == config


PROJECT = Path(__file__).parents[3]


@pytest.mark.parametrize("seed", range(12))
def test_tiny_holds_out_at_least_one_sequence_of_each_language(seed: int) -> None:
    """The three languages with the fewest documents; the golden file is from documents.parquet."""
    golden = read_json(PROJECT / "tests" / "golden" / "tiny_documents.json")
    pins = read_json(PROJECT / "components" / "data" / "archives" / "corpus.json")
    assert golden["md5"] == pins["dvc_md5"]["tiny"]
    config = recipe("tiny")
    fraction = config.data.held_out_fraction
    for name, documents in golden["documents"].items():
        held_out = [
            tokens
            for sha256, tokens in documents
            if is_held_out(bytes.fromhex(sha256), fraction, seed)
        ]
        assert sum(held_out) >= config.model.context_length, name
        assert len(held_out) < len(documents), name


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
def test_invalid_evaluation_settings_are_errors(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe("350m").override([assignment])


def test_recipe_and_execution_share_no_field() -> None:
    # Both have the sections training and data, with different fields.
    execution = {path.rsplit(".", 1)[-1] for path in _paths(Execution)} - {"training", "data"}
    recipe_fields = {path.rsplit(".", 1)[-1] for path in _paths(Recipe)}
    assert not execution & recipe_fields


def test_the_error_of_an_unknown_recipe_lists_all_recipes() -> None:
    with pytest.raises(ConfigError, match="starter, tiny, 350m"):
        recipe("stater")


def test_a_misspelt_field_is_an_error_and_creates_no_files(tmp_path: Path) -> None:
    result = run_codegen(
        "run", "--set", "training.stages.nl.step=3", "--exec", f"project={tmp_path}"
    )
    assert result.returncode == 1
    assert "did you mean 'training.stages.nl.steps'?" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_recipe_show_prints_all_fields() -> None:
    result = run_codegen("recipe", "show", "tiny", "--set", "seed=7")
    assert result.returncode == 0
    assert Recipe.parse(json.loads(result.stdout)).seed == 7


@pytest.mark.parametrize("name", ["", "../../evil", "a/b", ".hidden", "-x", "Upper", "a b", "a\n"])
def test_an_invalid_recipe_name_is_an_error(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"(?s)name is .*expected: lower-case.*fix: .*--set name="
    ):
        recipe("tiny").replace(name=name)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        # 256 + 500 + 1 + 38 = 795 ids
        ("model.padded_vocab_size=700", "model.padded_vocab_size is 700"),
        ("tokenizer.num_merges=602", "model.padded_vocab_size is 896"),  # 897 ids
        (
            "training.stages.multi.global_batch_tokens=1000",
            "training.stages.multi.global_batch_tokens is 1,000",
        ),
        (
            "evaluation.humaneval.max_new_tokens=256",
            "evaluation.humaneval.max_new_tokens allows completions of 256",
        ),
        ('benchmarks.a b={"sha256": "' + "0" * 64 + '"}', "benchmarks has the name 'a b'"),
        ('benchmarks.bits_per_byte={"sha256": "' + "0" * 64 + '"}', "the name 'bits_per_byte'"),
        ("benchmarks.mtpb.sha256=" + "0" * 64, "benchmarks.mtpb.sha256 is 000"),
        ('benchmarks.human-eval={"sha256": "' + "0" * 64 + '"}', "benchmarks.human-eval.sha256"),
        ('benchmarks.mine={"sha256": "ABC"}', "benchmarks.mine.sha256 is 'ABC'"),
        ("benchmarks.mtpb.search=true", "optional True"),
        (
            "evaluation.mtpb.max_new_tokens=300",
            "evaluation.mtpb.max_new_tokens allows completions of 600",
        ),
    ],
)
def test_an_inconsistent_recipe_is_an_error(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}.*expected: .*fix: "):
        recipe("tiny").override([override])


def test_the_recipes_of_the_paper_search_for_and_evaluate_both_benchmarks() -> None:
    for name in ("350m", "2b", "6b", "16b"):
        paper = recipe(name)
        names = (set(paper.searched_benchmarks()), set(paper.evaluated_benchmarks))
        assert names == ({"humaneval", "mtpb"}, {"humaneval", "mtpb"})
        assert not any(benchmark.optional for benchmark in paper.benchmarks.values())


def test_the_corpora_of_the_demonstrations_do_not_depend_on_mtpb() -> None:
    for name in ("starter", "tiny"):
        demonstration = recipe(name)
        assert set(demonstration.searched_benchmarks()) == {"humaneval"}
        assert set(demonstration.evaluated_benchmarks) == {"humaneval", "mtpb"}
        assert demonstration.benchmarks["mtpb"].optional


def test_a_recipe_at_the_limits_is_valid() -> None:
    overrides = ["tokenizer.num_merges=601", "evaluation.mtpb.max_new_tokens=127"]
    assert recipe("tiny").override(overrides).model.padded_vocab_size == 896


def test_the_preflight_check_compares_recipe_and_execution(tmp_path: Path) -> None:
    preflight_check(recipe("tiny"), Execution(project=str(tmp_path)))
    with pytest.raises(ConfigError, match="world_size is 3"):
        preflight_check(
            recipe("tiny"), Execution(project=str(tmp_path)).override(["training.world_size=3"])
        )
    with pytest.raises(EvaluationError):
        preflight_check(
            recipe("tiny"),
            Execution(project=str(tmp_path), benchmark_files={"mtpb": str(tmp_path / "absent")}),
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("artifacts", "--kind", "bogus"), "there is no artifact kind 'bogus'"),
        (
            ("artifacts", "--exec", "project=/nonexistent/project"),
            "project is /nonexistent/project, which is not a folder",
        ),
        (("artifacts", "--exec", "workspace=/etc/passwd"), "/etc/passwd cannot be created"),
        (("doctor", "--exec", "workspace=/proc/x"), "/proc/x cannot be created"),
        (("artifacts", "--exec", "store=nosuch://nope/x"), "nosuch://nope/x cannot be opened"),
        (("prepare", "-r", "tiny", "--exec", "min_free_disk_mb=1000000000"), "MB are free at"),
        (("data", "status", "--damaged"), "data.dvc is damaged"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_an_invalid_execution_config_is_an_error_of_three_lines(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    if "--damaged" in arguments:
        tmp_path = new_project(tmp_path / "project")
        (tmp_path / "data.dvc").write_text("outs:\n- md5: 12")
        arguments = arguments[:-1]
    names_project = any("project=" in argument for argument in arguments)
    options = () if names_project else ("--exec", f"project={tmp_path}")
    result = run_codegen(*arguments, *options)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    first, *rest = result.stderr[result.stderr.index("✗") :].strip().splitlines()
    assert message in first
    assert [line.split(":")[0].strip() for line in rest] == ["expected", "fix"]
    assert not (tmp_path / "var/store").exists()


def test_a_misspelt_field_of_a_source_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"no field 'data\.corpora\.mono\.sources\.0\.url'"
    ) as error:
        recipe("tiny").override(['data.corpora.mono.sources=[{"url": "x"}]'])
    assert error.value.fix == "did you mean 'data.corpora.mono.sources.0.uri'?"


PRESIGNED = "https://host/a.jsonl?X-Amz-Signature=canary"


@pytest.mark.parametrize(
    "read_config",
    [
        lambda: recipe("tiny").override([f'data.corpora.mono.sources=[{{"uri": "{PRESIGNED}"}}]']),
        lambda: recipe("tiny").override([f"data.corpora.mono.sources={PRESIGNED}"]),
        lambda: recipe("tiny").override([f"data.preset={PRESIGNED}"]),
        lambda: Execution().override([f"store={PRESIGNED}"]),
        lambda: push_prepared(recipe("tiny"), Execution(), PRESIGNED),
        lambda: pull_prepared(recipe("tiny"), Execution(), PRESIGNED),
    ],
)
def test_a_presigned_url_is_refused_without_its_signature(
    read_config: Callable[[], object],
) -> None:
    with pytest.raises(ConfigError, match="X-Amz-Signature=SECRET") as error:
        read_config()
    assert "canary" not in str(error.value)


def test_a_seed_out_of_range_is_refused_when_the_recipe_is_read() -> None:
    """`torch` raised it after the preparation."""
    result = run_codegen("recipe", "show", "tiny", "--set", "seed=202402144809161001040")
    assert result.returncode == 1
    assert "an integer from 0 to 9223372036854775807" in result.stderr


def test_a_stage_without_requirements_is_compared_on_the_languages_of_its_corpus() -> None:
    requirements = tiny().gate.requirements
    assert requirements["nl"][0].metrics == ("bits_per_byte/nl/English",)
    assert len(requirements["multi"][0].metrics) == 6
    assert requirements["mono"][0].metrics == ("bits_per_byte/mono/Python",)
    strict = tiny().override(['promotion.requirements.mono=[{"metrics": ["humaneval/pass@1"]}]'])
    assert strict.gate.requirements["mono"][0].metrics == ("humaneval/pass@1",)
    assert strict.gate.requirements["nl"] == requirements["nl"]


RUST = {
    "data.corpora.rust": {"languages": ["Rust"], "sources": [{"uri": "rust/*.jsonl"}]},
    "data.extensions": {".rs": "Rust"},
    "training.stages.rust": {
        **tiny().training.stages["mono"].model_dump(),
        "init_stage": "multi",
    },
}


def test_a_recipe_has_stages_corpora_and_languages_of_its_own() -> None:
    """A fourth stage that branches off Multi, on a seventh language."""
    recipe = tiny().override([f"{path}={json.dumps(value)}" for path, value in RUST.items()])
    assert recipe.training.all_stages == ("nl", "multi", "mono", "rust")
    assert recipe.training.stages_up_to("rust") == ("nl", "multi", "rust")
    assert recipe.corpora == ("nl", "multi", "mono", "rust")
    assert recipe.gate.requirements["rust"][0].metrics == ("bits_per_byte/rust/Rust",)
    later = recipe.override(["training.start_stage=multi"])
    assert list(later.training.trained) == ["multi", "mono", "rust"]
    assert later.training.stages_up_to("mono") == ("multi", "mono")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.stages.mono.init_stage": "mono"}, "exactly one has no init_stage"),
        ({"training.stages.multi.init_stage": None}, "exactly one has no init_stage"),
        ({"training.stages.multi.init_stage": "nlp"}, "'nlp' is not"),
        ({"training.start_stage": "python"}, "start_stage among the stages"),
        ({"training.stages.mono.corpus": "python"}, "trains on the corpus 'python'"),
        ({"data.corpora.rust": {"languages": ["Rust"]}}, "sources for corpora.rust"),
        ({"data.corpora.Rust": {"languages": ["Rust"]}}, "not 'Rust'"),
        ({"data.corpora.checkpoint": {"languages": ["Rust"]}}, "not 'checkpoint'"),
        ({"stage_gates.nl": {}}, "stage_gates.nl has no fields"),
        ({"data.corpora.multi.languages": ["C", "Rust"]}, "language_prefix for Rust"),
        ({"data.corpora.mono.languages": []}, "at least 1 item"),
        (
            {"data.dedup_across_corpora": True, "data.corpora.nl.exact_dedup": False},
            "dedup_across_corpora is true",
        ),
    ],
)
def test_inconsistent_stages_and_corpora_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        tiny().override([f"{path}={json.dumps(value)}" for path, value in changes.items()])
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("stage", "metric", "message"),
    [
        ("nlp", "bits_per_byte/nl/English", "stage_gates has 'nlp'"),
        ("mono", "bits_per_byte/mono/Python", "expected: .*starts: nl, multi"),
        ("nl", "bits_per_byte/nl/Python", "requires 'bits_per_byte/nl/Python'"),
        ("nl", "bits_per_byte/English", "expected: one of bits_per_byte/nl/English, "),
        ("nl", "humaneval/pass@10", "expected: one of humaneval/pass@1"),
        ("nl", "humanevl/pass@1", "expected: a metric of bits_per_byte, humaneval, mtpb"),
    ],
)
def test_an_impossible_stage_gate_is_refused(stage: str, metric: str, message: str) -> None:
    gate = {"requirements": [{"metrics": [metric], "threshold": 1.0}]}
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        tiny().override([f"stage_gates.{stage}={json.dumps(gate)}"])


def test_a_stage_gate_requires_no_benchmark_that_is_not_evaluated() -> None:
    gate = {"requirements": [{"metrics": ["humaneval/pass@1"], "threshold": 0.0}]}
    overrides = ["benchmarks.humaneval.evaluate=false", f"stage_gates.nl={json.dumps(gate)}"]
    with pytest.raises(ConfigError, match="requires 'humaneval/pass@1'"):
        tiny().override(overrides)


@pytest.mark.parametrize(
    ("waiting", "undecided", "stage"),
    [
        (["nl", "multi", "mono"], set(), "nl"),
        (["multi", "mono", "other"], set(), "multi"),
        (["multi", "mono", "other"], {"nl"}, "other"),  # mono waits for multi
        (["multi", "mono"], {"nl"}, "multi"),  # the reviewer is asked
        (["mono"], {"nl"}, "mono"),
    ],
)
def test_a_stage_follows_its_initial_stage(
    waiting: list[str], undecided: set[str], stage: str
) -> None:
    init_stages = {"nl": None, "multi": "nl", "mono": "multi", "other": None}
    assert next_stage(waiting, init_stages, undecided) == stage


def test_a_stage_gate_changes_no_checkpoint() -> None:
    gate = {"requirements": [{"metrics": ["bits_per_byte/nl/English"], "threshold": 1.0}]}
    gated = tiny().override([f"stage_gates.nl={json.dumps(gate)}"])
    for stage in tiny().training.stages:
        assert fingerprint(stage_config(gated, stage)) == fingerprint(stage_config(tiny(), stage))
    assert gated.gate == tiny().gate


def test_a_stage_that_reads_a_small_corpus_too_often_is_refused() -> None:
    """12 steps of 1,024 tokens are 12 epochs of a corpus of 4 sequences of 256 tokens."""
    prepared = {
        name: Artifact(
            kind="prepared-corpus",
            name=name,
            address="/x",
            recipe_hash="0" * 64,
            digest="1" * 64,
            statistics={"splits": {"train": {"num_sequences": num_sequences}}},
        )
        for name, num_sequences in (("nl", 4), ("multi", 48), ("mono", 12))
    }
    stages = tiny().training.all_stages

    def check_epochs(recipe: Recipe, stages: Sequence[str]) -> None:
        tokens = tokens_of_prepared(recipe, prepared)
        require_few_epochs(recipe, stage_epochs(recipe, stages, tokens))

    check_epochs(tiny(), stages)
    limited = tiny().override(["training.max_epochs=4"])
    with pytest.raises(ConfigError) as refused:
        check_epochs(limited, stages)
    assert refused.value.got == (
        "stage nl would read the 1,024 training tokens of the corpus nl 12.0 times"
    )
    assert "training.max_epochs" in refused.value.fix
    check_epochs(limited, stages[1:])
    check_epochs(tiny().override(["training.max_epochs=null"]), stages)


def test_a_recipe_can_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(tiny().model_dump_json())
    assert recipe(str(path)) == tiny()
    assert recipe(str(path)).override(["seed=3"]).seed == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "cannot be read as a recipe"),
        ("[]", "Recipe: the config"),
        ('{"name": "x"}', "model is missing"),
        ('{"name": "x", "modle": {}}', "modle"),
    ],
)
def test_a_file_without_a_valid_recipe_is_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as refused:
        recipe(str(path))
    assert message in str(refused.value)
    assert refused.value.fix
