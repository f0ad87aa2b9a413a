"""A Hugging Face CodeGen folder as an MLflow model: the files that MLflow needs beside it.

The checkpoint is copied byte for byte. `mlflow.transformers.log_model` (3.17.2) either loads and
rewrites the weights, which changes the recorded digest and needs memory for the model, or, given a
path, fails with transformers 5 (`check_task` returns a class name, and MLflow reads its
`__name__`). The keys are those of `mlflow.transformers.flavor_config.FlavorKey`; a test loads the
result with MLflow.

    MLmodel  requirements.txt  python_env.yaml  model_card.md
    model/                 the checkpoint
    components/tokenizer/  a copy of its tokenizer, at the path that MLflow reads
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
"""Folder of the checkpoint in an MLflow model, for `AutoModelForCausalLM.from_pretrained`."""

_TOKENIZER_FOLDER = "components/tokenizer"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_REQUIRED_FILES = ("config.json", "model.safetensors", *_TOKENIZER_FILES)
_PACKAGES = ("mlflow", "torch", "transformers")
"""Requirements of the model. MLflow would infer more (torchvision) by importing the model."""


def require_checkpoint(folder: Path) -> None:
    """Check that a folder is a complete Hugging Face CodeGen checkpoint.

    Raises:
        ArtifactError: a file is missing, or the model has another type.
    """
    required = list(_REQUIRED_FILES)
    if (folder / "model.safetensors.index.json").exists():  # The weights are sharded.
        required.remove("model.safetensors")
    if missing := [name for name in required if not (folder / name).exists()]:
        raise ArtifactError(
            f"{folder} has no {', '.join(missing)}",
            expected="a Hugging Face checkpoint with its tokenizer",
            fix="export it with components.model.huggingface.save_checkpoint",
        )
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type != "codegen":
        raise ArtifactError(
            f"{folder} contains a model of type {model_type!r}",
            expected="codegen",
            fix="register a checkpoint of this project",
        )


def write_model_files(checkpoint: Path, folder: Path, *, model: Model, card: str) -> None:
    """Write the MLflow model for text generation, except the checkpoint itself.

    Args:
        checkpoint: the Hugging Face folder.
        folder: the target, empty.
        model: has the ids of the logged model and its run; the flavors are added here.
        card: the model card, Markdown.
    """
    tokenizer_folder = folder / _TOKENIZER_FOLDER
    tokenizer_folder.mkdir(parents=True)
    for name in _TOKENIZER_FILES:
        shutil.copy2(checkpoint / name, tokenizer_folder)
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
    # As mlflow.pyfunc.add_to_model, whose import warns about MLflow's own type hints.
    model.add_flavor(
        "python_function",
        loader_module="mlflow.transformers",
        python_version=platform.python_version(),
        env={"virtualenv": "python_env.yaml"},
    )
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    model.model_size_bytes = sum(path.stat().st_size for path in files)
    model.save(str(folder / "MLmodel"))
    requirements = [f"{package}=={metadata.version(package)}" for package in _PACKAGES]
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    environment = {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
    write_json(folder / "python_env.yaml", environment)  # JSON is valid YAML.
    (folder / "model_card.md").write_text(card, encoding="utf-8")
