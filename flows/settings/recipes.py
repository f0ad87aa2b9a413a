"""Recipes: everything that decides results, from the demonstration on two cores to the 16.1B model
of the paper.

If a field of a recipe changes, the artifacts that depend on it are rebuilt. Recipes are pure
functions that derive from one another. Cited sections are those of docs/paper.md. The corpora of
the paper are not published, so its recipes name none: `Recipe.require_corpora` refuses them until
every stage has a corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from components.core.config import NAME_RULE, Config, Seed, is_name
from components.core.errors import ConfigError
from components.core.files import parse_json
from components.data.config import DataConfig
from components.evaluation.config import (
    OFFICIAL_SHA256,
    BenchmarkConfig,
    EvaluationConfig,
    HumanEvalConfig,
    MtpbConfig,
    official_name_like,
    paper_benchmarks,
)
from components.model.config import ModelConfig
from components.registry.config import (
    GateConfig,
    StageGateConfig,
    benchmark_of,
    default_requirements,
)
from components.tokenizer.config import TokenizerConfig
from components.training.config import StageConfig, TrainingConfig
from components.validation.config import ValidationConfig

_FILE_SUFFIX = ".json"
_BITS_PER_BYTE = ("bits-per-byte", "bits_per_byte")
"""Names that no benchmark may have: those of the other evaluation, in artifacts and metrics."""


class Recipe(Config):
    """What to build: benchmarks, data, tokenizer, model, training, evaluation and promotion gate.
    Every field can change results."""

    name: str
    """Prefix of the model names: `{name}-{stage}`."""
    seed: Seed = 0
    """Seed of shuffling, held-out documents, initial weights and samples."""
    benchmarks: dict[str, BenchmarkConfig] = Field(default_factory=paper_benchmarks)
    """The benchmarks that the corpora are searched for and that checkpoints are evaluated on, by
    name. Benchmarks other than `humaneval` and `mtpb` are evaluated by HumanEval's protocol."""
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    promotion: GateConfig = GateConfig()
    stage_gates: dict[str, StageGateConfig] = Field(default_factory=dict)
    """By stage: the conditions for training the stages that start from its checkpoint. They are in
    no hash of a checkpoint. A stage that is absent has no gate."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        """Check the fields against each other, so that no run fails on them after hours.

        `ConfigError` is not a ValueError, so Pydantic does not wrap it.
        """
        if not is_name(self.name):
            raise ConfigError(
                f"name is {self.name!r}",
                expected=f"{NAME_RULE}, since folders and models are named after it",
                fix="choose such a name, e.g. --set name=my-codegen",
            )
        if self.model.padded_vocab_size < self.tokenizer.num_ids:
            raise ConfigError(
                f"model.padded_vocab_size is {self.model.padded_vocab_size:,}",
                expected=f"at least {self.tokenizer.num_ids:,}, the number of ids of a tokenizer "
                f"with tokenizer.num_merges {self.tokenizer.num_merges:,}",
                fix=f"set model.padded_vocab_size to {self.tokenizer.num_ids:,} or more, or lower "
                "tokenizer.num_merges",
            )
        self._check_benchmarks()
        self._check_corpora()
        self._check_batch_sizes()
        self._check_completion_lengths()
        self._check_optimizer_state()
        self._check_stage_gates()
        return self

    @property
    def trained_corpora(self) -> tuple[str, ...]:
        """The names of the corpora that stages are trained on, in the order of the stages."""
        return tuple(dict.fromkeys(map(self.training.corpus_of, self.training.trained)))

    @property
    def corpora(self) -> tuple[str, ...]:
        """The names of the corpora that have sources or come from the preset: those of the stages,
        in order, then those that no stage trains on, which are only evaluated on."""
        of_stages = map(self.training.corpus_of, self.training.all_stages)
        names = dict.fromkeys([*of_stages, *sorted(self.data.corpora)])
        return tuple(name for name in names if name in self.data.available)

    @property
    def preset_corpora(self) -> tuple[str, ...]:
        """The names of the corpora that come from the preset, in the same order."""
        return tuple(name for name in self.corpora if name not in self.data.declared_sources)

    def require_any_corpus(self) -> None:
        """Check that there is a corpus to prepare.

        Raises:
            ConfigError: no corpus has sources, and the recipe has no preset.
        """
        if not self.corpora:
            self.require_corpora()

    def require_corpora(self, names: Iterable[str] | None = None) -> None:
        """Check that corpora have sources or come from a preset.

        Args:
            names: the corpora. None: all that stages are trained on.

        Raises:
            ConfigError: names the corpora that have neither.
        """
        names = self.trained_corpora if names is None else names
        missing = [name for name in names if name not in self.corpora]
        if not missing:
            return
        is_single = len(missing) == 1
        raise ConfigError(
            f"{self.name} names no sources for the {'corpus' if is_single else 'corpora'} "
            f"{', '.join(missing)}",
            expected="sources of your own for each corpus that is used, or a preset",
            fix=f"name them with --sources or data.corpora.{missing[0]}.sources "
            "(docs/adding-a-corpus.md), or set data.preset to starter to try the demo corpora",
        )

    @property
    def evaluated_benchmarks(self) -> dict[str, BenchmarkConfig]:
        """The benchmarks that every checkpoint is evaluated on."""
        return {name: config for name, config in self.benchmarks.items() if config.evaluate}

    def searched_benchmarks(self, *corpora: str) -> dict[str, BenchmarkConfig]:
        """Return the benchmarks that a corpus is searched for; those of any corpus if none is
        given."""
        configs = (self.data.corpora[name] for name in corpora or self.data.corpora)
        if not any(config.decontamination.enabled for config in configs):
            return {}
        return {name: config for name, config in self.benchmarks.items() if config.search}

    @property
    def gate(self) -> GateConfig:
        """`promotion` with the requirements of every stage."""
        requirements = dict(self.promotion.requirements)
        for stage in self.training.stages:
            corpus = self.training.corpus_of(stage)
            languages = self.data.corpora[corpus].languages
            requirements.setdefault(stage, default_requirements(corpus, languages))
        return self.promotion.replace(requirements=requirements)

    def _check_benchmarks(self) -> None:
        for name, config in self.benchmarks.items():
            if not is_name(name) or name in _BITS_PER_BYTE:
                raise ConfigError(
                    f"benchmarks has the name {name!r}",
                    expected=f"{NAME_RULE}, other than {' and '.join(_BITS_PER_BYTE)}",
                    fix="choose such a name",
                )
            official = official_name_like(name)
            if official and (name != official or config.sha256 != OFFICIAL_SHA256[official]):
                raise ConfigError(
                    f"benchmarks.{name}.sha256 is {config.sha256}",
                    expected=f"{OFFICIAL_SHA256[official]} with the name {official}, which is "
                    "reserved for the file of the paper",
                    fix="choose another name for another file",
                )

    def _check_corpora(self) -> None:
        for stage in self.training.all_stages:
            corpus = self.training.corpus_of(stage)
            if corpus not in self.data.corpora:
                raise ConfigError(
                    f"stage {stage} trains on the corpus {corpus!r}",
                    expected=f"one of data.corpora: {', '.join(self.data.corpora)}",
                    fix=f"add it to data.corpora, or set training.stages.{stage}.corpus to one of "
                    "these",
                )
        for corpus in self.validation.corpora:
            if corpus not in self.data.corpora:
                raise ConfigError(
                    f"validation.corpora has limits for {corpus!r}",
                    expected=f"one of data.corpora: {', '.join(self.data.corpora)}",
                    fix=f"rename or remove validation.corpora.{corpus}",
                )
        if not self.data.dedup_across_corpora:
            return
        for name, config in self.data.corpora.items():
            if not config.exact_dedup:
                raise ConfigError(
                    f"data.dedup_across_corpora is true, data.corpora.{name}.exact_dedup false",
                    expected="exact_dedup for every corpus if corpora are compared",
                    fix="set data.dedup_across_corpora to false, or exact_dedup to true",
                )

    def _check_batch_sizes(self) -> None:
        context = self.model.context_length
        for stage, config in self.training.stages.items():
            if config.global_batch_tokens % context:
                nearest = max(1, round(config.global_batch_tokens / context)) * context
                raise ConfigError(
                    f"training.stages.{stage}.global_batch_tokens is "
                    f"{config.global_batch_tokens:,}",
                    expected=f"a multiple of model.context_length, {context:,}",
                    fix=f"set training.stages.{stage}.global_batch_tokens to {nearest:,}",
                )

    def _check_completion_lengths(self) -> None:
        context = self.model.context_length
        mtpb = self.evaluation.mtpb
        max_tokens = {
            "humaneval": self.evaluation.humaneval.max_new_tokens,
            # A completion of all turns at once may be twice as long.
            "mtpb": mtpb.max_new_tokens * (2 if mtpb.single_turn else 1),
        }
        for benchmark, num_tokens in max_tokens.items():
            if num_tokens >= context:
                raise ConfigError(
                    f"evaluation.{benchmark}.max_new_tokens allows completions of {num_tokens:,} "
                    "tokens",
                    expected=f"less than model.context_length, {context:,}, to leave space for a "
                    "prompt",
                    fix=f"set evaluation.{benchmark}.max_new_tokens to {context // 4:,}, or raise "
                    "model.context_length",
                )

    def _check_optimizer_state(self) -> None:
        first = self.training.first_stage
        value = self.training.stages[first].optimizer_state
        if value != "reset" and self.training.init_from is None:
            raise ConfigError(
                f"training.stages.{first}.optimizer_state is {value}, but {first} is the first "
                "stage",
                expected="a stage that starts from another stage, or from training.init_from",
                fix=f"set training.stages.{first}.optimizer_state to reset",
            )

    def _check_stage_gates(self) -> None:
        stages = self.training.stages
        parents = {stage.init_stage for stage in stages.values()}
        init_stages = [name for name in self.training.all_stages if name in parents]
        for name, gate in self.stage_gates.items():
            if name not in init_stages:
                raise ConfigError(
                    f"stage_gates has {name!r}, and no stage starts from a stage with that name",
                    expected="stages from which another stage starts: "
                    f"{', '.join(init_stages) or 'none'}",
                    fix=f"set promotion.requirements.{name} for the decision about a champion, or "
                    "correct the name",
                )
            for metric in gate.metrics:
                self._check_gate_metric(name, metric)

    def _check_gate_metric(self, stage: str, metric: str) -> None:
        """Check the name of a metric that a stage gate requires, before the stage is trained."""
        names = {
            "bits_per_byte": [
                f"bits_per_byte/{corpus}/{language}"
                for corpus in self.corpora
                for language in self.data.corpora[corpus].languages
            ]
            + ["bits_per_byte/humaneval/canonical"],
            # Names of the metrics of other benchmarks are not known here.
            **{name: [metric] for name in self.evaluated_benchmarks},
        }
        if "humaneval" in names:
            names["humaneval"] = [
                f"humaneval/pass@{k}"
                for k in self.evaluation.humaneval.k
                if k <= self.evaluation.humaneval.num_samples
            ]
        expected = names.get(benchmark_of(metric))
        if expected and metric in expected:
            return
        raise ConfigError(
            f"stage_gates.{stage} requires {metric!r}, which this recipe does not measure",
            expected=f"one of {', '.join(expected)}"
            if expected
            else f"a metric of {', '.join(names)}",
            fix="correct the name, or change data, benchmarks and evaluation of the recipe",
        )


def starter() -> Recipe:
    """Return the demonstration: 150 MB of text, two cores, ten minutes
    (docs/decisions/0003-the-size-of-the-starter.md). It runs without MTPB's file, which has to be
    fetched."""
    nl = StageConfig(
        steps=600,
        warmup_steps=50,
        decay_steps=550,
        learning_rate=4e-3,
        min_learning_rate=4e-4,
        global_batch_tokens=4 * 512,
    )
    later = nl.replace(learning_rate=3e-3, min_learning_rate=3e-4)
    benchmarks = paper_benchmarks()
    benchmarks["mtpb"] = benchmarks["mtpb"].replace(search=False, optional=True)
    return Recipe(
        name="codegen-starter",
        benchmarks=benchmarks,
        data=DataConfig(preset="starter", held_out_fraction=0.03),
        tokenizer=TokenizerConfig(num_merges=2_000),
        model=ModelConfig(
            num_layers=4,
            num_heads=4,
            head_dim=32,
            rotary_dim=16,
            context_length=512,
            padded_vocab_size=2_304,
        ),
        training=TrainingConfig(stages=_stages(nl, later)),
        evaluation=EvaluationConfig(
            held_out_max_sequences=32,
            humaneval=HumanEvalConfig(num_samples=2, temperatures=(0.2,), max_new_tokens=128),
            mtpb=MtpbConfig(
                problem_ids=tuple(range(1, 11)), cases=(0,), num_samples=2, max_new_tokens=64
            ),
        ),
    )


def tiny() -> Recipe:
    """Return the smallest run of all steps: 6 MB of text, one or two minutes; its model learns
    almost nothing.

    A quarter of the documents is held out because the preset has only 13 JavaScript documents. With
    0.05, 7 of the seeds 0 to 11 held out no document of some language and failed; with 0.25, no
    seed of 0 to 11 fails, and 18 of 0 to 999 do (measured).
    """
    base = starter()
    stage = base.training.stages["mono"].replace(
        init_stage=None, steps=12, warmup_steps=2, decay_steps=10, global_batch_tokens=4 * 256
    )
    humaneval = base.evaluation.humaneval.replace(num_samples=1, max_new_tokens=16)
    mtpb = base.evaluation.mtpb.replace(problem_ids=(1, 2), num_samples=1, max_new_tokens=16)
    return base.replace(
        name="codegen-tiny",
        data=base.data.replace(preset="tiny", held_out_fraction=0.25),
        tokenizer=TokenizerConfig(num_merges=500),
        model=base.model.replace(
            num_layers=2, head_dim=16, rotary_dim=8, context_length=256, padded_vocab_size=896
        ),
        training=TrainingConfig(stages=_stages(stage, stage), max_epochs=100.0),
        evaluation=base.evaluation.replace(
            held_out_max_sequences=16, humaneval=humaneval, mtpb=mtpb
        ),
    )


def codegen_350m() -> Recipe:
    """Return CodeGen 350M (sections 2 and 3)."""
    shape = _shape(num_layers=20, num_heads=16, head_dim=64, rotary_dim=32)
    return _codegen(
        "codegen-350m", shape, global_batch_tokens=524_288, nl_rate=3.0e-4, later_rate=1.8e-4
    )


def codegen_2b() -> Recipe:
    """Return CodeGen 2.7B (sections 2 and 3)."""
    shape = _shape(num_layers=32, num_heads=32, head_dim=80, rotary_dim=64)
    return _codegen(
        "codegen-2b", shape, global_batch_tokens=1_048_576, nl_rate=1.6e-4, later_rate=0.8e-4
    )


def codegen_6b() -> Recipe:
    """Return CodeGen 6.1B (sections 2 and 3)."""
    shape = _shape(num_layers=33, num_heads=16, head_dim=256, rotary_dim=64)
    return _codegen(
        "codegen-6b", shape, global_batch_tokens=1_048_576, nl_rate=1.2e-4, later_rate=0.4e-4
    )


def codegen_16b() -> Recipe:
    """Return CodeGen 16.1B (sections 2 and 3)."""
    shape = _shape(num_layers=34, num_heads=24, head_dim=256, rotary_dim=64)
    paper = _codegen(
        "codegen-16b", shape, global_batch_tokens=2_097_152, nl_rate=0.9e-4, later_rate=0.5e-4
    )
    # Mono reads 150k x 2,097,152 tokens of the paper's 71.7B, which is 4.4 times.
    return paper.replace(training=paper.training.replace(max_epochs=5.0))


def _stages(nl: StageConfig, later: StageConfig) -> dict[str, StageConfig]:
    """Return CodeGen's stages (docs/paper.md, section 3): each starts from the one before."""
    return {
        "nl": nl,
        "multi": later.replace(init_stage="nl"),
        "mono": later.replace(init_stage="multi"),
    }


def _shape(*, num_layers: int, num_heads: int, head_dim: int, rotary_dim: int) -> ModelConfig:
    return ModelConfig(
        num_layers=num_layers,
        num_heads=num_heads,
        head_dim=head_dim,
        rotary_dim=rotary_dim,
        context_length=2048,
        padded_vocab_size=51_200,
    )


def _codegen(
    name: str, model: ModelConfig, *, global_batch_tokens: int, nl_rate: float, later_rate: float
) -> Recipe:
    """Return a recipe of the paper: NL anneals to a tenth over 300k of 350k steps, Multi over 147k
    of 150k (section 3).

    Multi and Mono anneal to a sixth of their peak. This is an assumption for every size but 350M
    Multi, the only final rate that was read (1.8e-4 to 3.0e-5).
    """
    nl = StageConfig(
        steps=350_000,
        warmup_steps=3_000,
        decay_steps=300_000,
        learning_rate=nl_rate,
        min_learning_rate=nl_rate / 10,
        global_batch_tokens=global_batch_tokens,
    )
    later = nl.replace(
        steps=150_000,
        decay_steps=147_000,
        learning_rate=later_rate,
        min_learning_rate=later_rate / 6,
    )
    return Recipe(
        name=name,
        model=model,
        training=TrainingConfig(stages=_stages(nl, later)),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "starter": starter,
    "tiny": tiny,
    "350m": codegen_350m,
    "2b": codegen_2b,
    "6b": codegen_6b,
    "16b": codegen_16b,
}


def recipe_name_for_model(model: str) -> str | None:
    """Return the name of the recipe that builds a registered model, or None."""
    for name, build in RECIPES.items():
        if model.startswith(f"{build().name}-"):
            return name
    return None


def recipe(name: str) -> Recipe:
    """Return a recipe by its name on the command line: a key of `RECIPES`, or a JSON file with all
    fields, as `codegen recipe show` prints it.

    Raises:
        ConfigError: the recipe does not exist, or the file has no valid recipe.
    """
    if name in RECIPES:
        return RECIPES[name]()
    if not name.endswith(_FILE_SUFFIX):
        raise ConfigError(
            f"there is no recipe {name!r}",
            expected=f"one of {', '.join(RECIPES)}, or a file {_FILE_SUFFIX}",
            fix="choose one of these names",
        )
    try:
        return Recipe.parse(parse_json(Path(name).read_bytes()))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{name} cannot be read as a recipe: {error}",
            expected="a JSON document with the fields of a recipe",
            fix=f"write one with `codegen recipe show starter > {name}`, and edit it",
        ) from None
