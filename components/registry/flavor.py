"""A Hugging Face CodeGen folder as an MLflow model: the few files that `mlflow.transformers.load_model` reads beside it.

Design decision: these files are written here, and the checkpoint is copied byte for byte. `mlflow.transformers.log_model`
(3.17.2) either loads the weights and writes them anew, which changes the bytes whose digest the lineage states and needs
the memory of the model, or, given a path, fails with transformers 5 (`check_task` returns a class name, MLflow asks it for
`__name__`). The keys are those of `mlflow.transformers.flavor_config.FlavorKey`; a test loads the result with MLflow.

    MLmodel  requirements.txt  python_env.yaml  model_card.md
    model/                 the checkpoint
    components/tokenizer/  its tokenizer again, where MLflow looks for it
"""

from __future__ import annotations

import platform
import shutil
from importlib import metadata
from pathlib import Path

from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from components.core.errors import ArtifactError
from components.core.files import read_json, write_json

CHECKPOINT_FOLDER = "model"
"""Where the checkpoint lies in an MLflow model; `AutoModelForCausalLM.from_pretrained` reads this folder."""

_TOKENIZER_FOLDER = "components/tokenizer"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_REQUIRED_FILES = ("config.json", "model.safetensors", *_TOKENIZER_FILES)
_PACKAGES = ("mlflow", "torch", "transformers")
"""What it takes to load the model. Stated, because MLflow infers more than that (torchvision) by importing it."""


def require_checkpoint(folder: Path) -> None:
    """Refuse a folder that is no complete Hugging Face CodeGen checkpoint.

    Raises:
        ArtifactError: a file is missing, or the model is another one.
    """
    sharded = (folder / "model.safetensors.index.json").exists()
    required = [name for name in _REQUIRED_FILES if not (sharded and name == "model.safetensors")]
    if missing := [name for name in required if not (folder / name).exists()]:
        raise ArtifactError(
            f"{folder} has no {', '.join(missing)}",
            expected="a Hugging Face checkpoint with its tokenizer",
            fix="export it with components.model.huggingface.save_checkpoint",
        )
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "codegen":
        raise ArtifactError(
            f"{folder} holds a model of type {kind!r}",
            expected="codegen",
            fix="register a checkpoint that this project made",
        )


def write_model_files(checkpoint: Path, into: Path, *, model: Model, card: str) -> None:
    """Write everything of the MLflow model but the checkpoint itself, for text generation.

    Args:
        checkpoint: the Hugging Face folder.
        into: an empty folder.
        model: carries the ids of the LoggedModel and its run; its flavors are added here.
        card: the model card, Markdown.
    """
    shutil.copytree(
        checkpoint,
        into / _TOKENIZER_FOLDER,
        ignore=lambda _, names: set(names) - set(_TOKENIZER_FILES),
    )
    model.add_flavor(
        "transformers",
        task="text-generation",
        instance_type="TextGenerationPipeline",
        pipeline_model_type=read_json(checkpoint / "config.json")["architectures"][0],
        source_model_name=model.run_id or "",
        model_binary=CHECKPOINT_FOLDER,
        components=["tokenizer"],
        tokenizer_type="AutoTokenizer",
        transformers_version=metadata.version("transformers"),
        code=None,
    )
    text = Schema([ColSpec(DataType.string)])
    model.signature = ModelSignature(inputs=text, outputs=text)
    # As mlflow.pyfunc.add_to_model would; importing that module warns about MLflow's own type hints.
    model.add_flavor(
        "python_function",
        loader_module="mlflow.transformers",
        python_version=platform.python_version(),
        env={"virtualenv": "python_env.yaml"},
    )
    model.model_size_bytes = sum(
        path.stat().st_size for path in checkpoint.rglob("*") if path.is_file()
    )
    model.save(str(into / "MLmodel"))
    requirements = [f"{package}=={metadata.version(package)}" for package in _PACKAGES]
    (into / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    environment = {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
    write_json(into / "python_env.yaml", environment)  # JSON is YAML.
    (into / "model_card.md").write_text(card, encoding="utf-8")
