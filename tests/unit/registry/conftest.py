"""Real MLflow on real SQLite, a real store and a real, tiny CodeGen checkpoint."""

import os

# Read when MLflow is imported.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.tracking_server import copy_database
from fixtures.versions import GATE, NAME, PYTHON, STAGE, register_checkpoint

from components.core.artifact import Artifact
from components.core.store import Store
from components.registry.evidence import Evidence
from components.registry.promotion import Promotion, PromotionRequest, promote
from components.registry.tracking import Tracking


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables; creating them takes seconds, so tests copy this file."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    Tracking(f"sqlite:///{path}", path.parent / "artifacts").check()
    return path


@pytest.fixture
def tracking(tmp_path: Path, empty_database: Path) -> Tracking:
    """An empty tracking database of this test."""
    path = tmp_path / "mlflow" / "mlflow.db"
    path.parent.mkdir()
    copy_database(empty_database, path)
    return Tracking(f"sqlite:///{path}", path.parent / "artifacts")


@pytest.fixture(scope="session")
def huggingface_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer CodeGen with a byte tokenizer, written by transformers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import CodeGenConfig, CodeGenForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("huggingface")
    end = "<|endoftext|>"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab={**vocabulary, end: 256}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=end, bos_token=end
    ).save_pretrained(folder)
    config = CodeGenConfig(
        vocab_size=300,
        n_embd=32,
        n_head=4,
        n_layer=1,
        rotary_dim=4,
        n_positions=64,
        n_ctx=64,
        bos_token_id=256,
        eos_token_id=256,
    )
    CodeGenForCausalLM(config).save_pretrained(folder)
    return folder


MakeCheckpoint = Callable[[str], tuple[Artifact, Path]]


@pytest.fixture
def make_checkpoint(tmp_path: Path, huggingface_folder: Path) -> MakeCheckpoint:
    """Publish the checkpoint in a real store; another `note` gives another digest."""
    store = Store(tmp_path / "store")

    def make(note: str) -> tuple[Artifact, Path]:
        def build(folder: Path) -> dict[str, int]:
            shutil.copytree(huggingface_folder, folder, dirs_exist_ok=True)
            (folder / "training.json").write_text(note)
            return {"num_parameters": 32}

        artifact = store.get_or_build(
            "checkpoint",
            "codegen-tiny-mono",
            config={"note": note},
            parents={},
            code_version=1,
            build=build,
        ).artifact
        return artifact, store.fetch_verified(artifact)

    return make


@pytest.fixture
def make_evaluation(tmp_path: Path) -> Callable[[float], Artifact]:
    """Publish an evaluation of bits per byte in a real store."""
    store = Store(tmp_path / "store")

    def make(bits_per_byte: float) -> Artifact:
        def build(folder: Path) -> dict[str, object]:
            (folder / "results.json").write_text(str(bits_per_byte))
            return {"mono": {"Python": bits_per_byte}, "multi": {"C++": bits_per_byte + 1}}

        return store.get_or_build(
            "evaluation",
            "codegen-tiny-mono-bits-per-byte",
            config={"bits_per_byte": bits_per_byte},
            parents={},
            code_version=1,
            build=build,
        ).artifact

    return make


PromoteCheckpoint = Callable[..., Promotion]


@pytest.fixture
def promote_checkpoint(tracking: Tracking, make_checkpoint: MakeCheckpoint) -> PromoteCheckpoint:
    """Register a checkpoint and evaluate the gate with default rules."""
    from components.model.huggingface import logit_parity

    def promote_note(note: str, bits_per_byte: float, protocol: str = "a") -> Promotion:
        checkpoint, folder = make_checkpoint(note)
        evidence = Evidence(
            digest=checkpoint.digest,
            metrics={PYTHON: bits_per_byte, f"extra/{note}": 1.0},
            protocols={"bits_per_byte": protocol},
            logit_difference=1e-6,
        )
        with tracking.run(f"promote {note}", experiment="tiny") as run:
            registered = register_checkpoint(run, checkpoint, folder, parity=logit_parity)
            version = int(str(registered.statistics["version"]))
            request = PromotionRequest(NAME, version, STAGE, evidence, GATE)
            return promote(request, run=run, decided_by="ada")

    return promote_note
