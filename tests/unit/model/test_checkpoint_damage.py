"""Damaged and invalid checkpoints: errors name file and tensor, and no code is executed."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.checkpoints import (
    CHECKPOINT_FORMATS,
    SMALL_MODEL,
    checkpoint_shards,
    released_config,
    transformers_model,
    write_bin_shards,
    write_modified_checkpoint,
    write_transformers_checkpoint,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import CodeGenForCausalLM

from components.core.errors import ArtifactError
from components.model.huggingface import load_checkpoint, load_config


@pytest.fixture(scope="module")
def reference() -> CodeGenForCausalLM:
    """Shared by tests, which must not change it."""
    return transformers_model(SMALL_MODEL)


@pytest.fixture(params=CHECKPOINT_FORMATS)
def checkpoint(
    request: pytest.FixtureRequest, reference: CodeGenForCausalLM, tmp_path: Path
) -> Path:
    return write_transformers_checkpoint(reference, tmp_path / "checkpoint", request.param)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("transformer.h.1.ln_1.bias"),
            r"lacks the tensor transformer\.h\.1\.ln_1\.bias",
        ),
        (lambda tensors: tensors.update(x=torch.ones(1)), "has also the tensor x"),
        (
            lambda tensors: tensors.update({"lm_head.bias": torch.ones(99)}),
            r"lm_head\.bias of shape \[99\]\n.*\[100\]",
        ),
        (
            lambda tensors: tensors.update({"lm_head.bias": torch.ones(100).int()}),
            r"has lm_head\.bias in int32",
        ),
        (
            lambda tensors: tensors.update({"lm_head.bias": torch.ones(100).double()}),
            r"has lm_head\.bias in float64",
        ),
        (
            lambda tensors: tensors["lm_head.bias"][7:9].fill_(torch.nan),
            r"lm_head\.bias with 2 of 100 values NaN",
        ),
        (
            lambda tensors: tensors["transformer.wte.weight"][3].fill_(-torch.inf),
            r"wte\.weight with 32 of 3,200 values",
        ),
        (
            lambda tensors: tensors["transformer.h.0.attn.qkv_proj.weight"][5].fill_(torch.inf),
            r"h\.0\.attn\.qkv_proj\.weight with 32 of 3,072 values",
        ),
    ],
    ids=[
        "missing",
        "too many",
        "shape",
        "integers",
        "doubles",
        "NaN",
        "infinite",
        "infinite, fused",
    ],
)
def test_the_error_names_an_invalid_tensor_and_its_file(
    form: str, change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    file = "pytorch_model.bin" if form == "bin" else "model.safetensors"
    with pytest.raises(ArtifactError, match=rf"{file} .*{message}"):
        load_checkpoint(write_modified_checkpoint(SMALL_MODEL, tmp_path, form, change))


@pytest.mark.parametrize("form", ["safetensors shards", "bin shards"])
def test_the_error_names_a_missing_shard_and_its_tensors(
    form: str, reference: CodeGenForCausalLM, tmp_path: Path
) -> None:
    folder = write_transformers_checkpoint(reference, tmp_path / "checkpoint", form)
    checkpoint_shards(folder)[-1].unlink()
    with pytest.raises(
        ArtifactError,
        match=rf"{folder.name}/.*-of-.*does not exist, and with it [a-z_.0-9]+ and \d+ more",
    ):
        load_checkpoint(folder)


@pytest.mark.parametrize("form", ["safetensors shards", "bin shards"])
def test_an_index_that_contradicts_its_shards_is_an_error(
    form: str, reference: CodeGenForCausalLM, tmp_path: Path
) -> None:
    folder = write_transformers_checkpoint(reference, tmp_path / "checkpoint", form)
    index = next(folder.glob("*.index.json"))
    document = json.loads(index.read_text())
    first, last = (
        path.name for path in (checkpoint_shards(folder)[0], checkpoint_shards(folder)[-1])
    )

    def assert_error(message: str, **changes: str | None) -> None:
        files = {
            **document["weight_map"],
            **{name.replace("__", "."): file for name, file in changes.items()},
        }
        index.write_text(
            json.dumps(
                {**document, "weight_map": {name: file for name, file in files.items() if file}}
            )
        )
        with pytest.raises(ArtifactError, match=message):
            load_checkpoint(folder)

    name = next(name for name, file in document["weight_map"].items() if file == first)
    assert_error(
        rf"{last} lacks the tensor {name}|{first} has also the tensor {name}", **{name: last}
    )
    assert_error(rf"{first} has also the tensor {name}", **{name: None})
    assert_error(
        rf"{first} lacks the tensor transformer\.h\.9\.ln_1\.bias",
        **{"transformer.h.9.ln_1.bias": first},
    )
    assert_error(rf"index.json puts {name} in '\.\./{first}'", **{name: f"../{first}"})
    assert_error(rf"index.json puts {name} in '/etc/passwd'", **{name: "/etc/passwd"})
    assert_error(rf"index.json puts {name} in '\.\.'", **{name: ".."})
    assert_error(rf"index.json puts {name} in 'a{{299}}\n", **{name: "a" * 5000})


@pytest.mark.parametrize(
    "content",
    ["", "[1]", "{}", '{"weight_map": 1}', '{"weight_map": {"lm_head.bias": 1}}', "[" * 100_000],
    ids=range(6),
)
def test_an_invalid_index_is_an_error(content: str, tmp_path: Path) -> None:
    folder = write_transformers_checkpoint(
        transformers_model(SMALL_MODEL), tmp_path / "checkpoint", "safetensors shards"
    )
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"index\.json (is no index|puts lm_head\.bias in 1)"):
        load_checkpoint(folder)


def test_the_error_names_a_tensor_that_no_shard_has(tmp_path: Path) -> None:
    folder = write_transformers_checkpoint(
        transformers_model(SMALL_MODEL), tmp_path / "checkpoint", "bin"
    )
    (folder / "pytorch_model.bin").unlink()
    tensors = {
        name: tensor
        for name, tensor in transformers_model(SMALL_MODEL).state_dict().items()
        if name != "lm_head.bias"
    }
    write_bin_shards(tensors, folder)
    with pytest.raises(ArtifactError, match=r"lacks the tensor lm_head\.bias"):
        load_checkpoint(folder)


@pytest.mark.parametrize("length", [0, 1, 40, 0.5, -1])
def test_the_error_names_a_truncated_file_and_a_missing_tensor(
    checkpoint: Path, length: float
) -> None:
    damaged_file = max(
        checkpoint_shards(checkpoint) or checkpoint.glob("*model*"),
        key=lambda path: path.stat().st_size,
    )
    content = damaged_file.read_bytes()
    damaged_file.write_bytes(
        content[: int(length * len(content)) if isinstance(length, float) else length]
    )
    with pytest.raises(ArtifactError) as error:
        load_checkpoint(checkpoint)
    assert damaged_file.name in error.value.got
    assert any(name in error.value.got for name in transformers_model(SMALL_MODEL).state_dict())


@settings(
    deadline=None,
    max_examples=60,
    # Shrinking would take minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_file_with_changed_bytes_loads_or_is_an_artifact_error(
    checkpoint: Path, data: st.DataObject
) -> None:
    damaged_file = min(
        checkpoint_shards(checkpoint) or checkpoint.glob("*model*"),
        key=lambda path: path.stat().st_size,
    )
    original = damaged_file.read_bytes()
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, min(len(original), 6_000) - 1))
        content[position] = data.draw(st.integers(0, 255))
    damaged_file.write_bytes(content)
    try:
        load_checkpoint(checkpoint)
    except ArtifactError as error:
        assert checkpoint.name in error.got  # noqa: PT017 - both outcomes are right
    finally:
        damaged_file.write_bytes(original)


class MaliciousObject:
    """An object whose pickle creates a folder when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.file),))


def test_a_malicious_pickle_is_not_executed(tmp_path: Path) -> None:
    created = tmp_path / "created"
    folder = write_modified_checkpoint(
        SMALL_MODEL,
        tmp_path / "checkpoint",
        "bin",
        lambda tensors: tensors.update(x=MaliciousObject(created)),
    )
    with pytest.raises(
        ArtifactError, match=r"pytorch_model\.bin contains a pickle that calls posix\.mkdir"
    ):
        load_checkpoint(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(MaliciousObject(created)))
    with pytest.raises(ArtifactError, match=r"no zip archive"):
        load_checkpoint(folder)
    assert not created.exists()


def test_a_file_without_plain_tensors_is_an_error(tmp_path: Path) -> None:
    folder = write_modified_checkpoint(
        SMALL_MODEL, tmp_path, "bin", lambda tensors: tensors.update(step=3)
    )
    with pytest.raises(ArtifactError, match="has step, which is not a plain tensor but a int"):
        load_checkpoint(folder)
    torch.save([torch.ones(2)], folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match="holds a list"):
        load_checkpoint(folder)
    torch.save({"lm_head.bias": torch.empty(100, device="meta")}, folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"has lm_head\.bias, which is not a plain tensor"):
        load_checkpoint(folder)
    torch.save(
        transformers_model(SMALL_MODEL).state_dict(),
        folder / "pytorch_model.bin",
        _use_new_zipfile_serialization=False,
    )
    with pytest.raises(ArtifactError, match=r"since PyTorch 1\.6"):
        load_checkpoint(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_git_lfs_pointer_is_an_error(
    file: str, reference: CodeGenForCausalLM, tmp_path: Path
) -> None:
    folder = write_transformers_checkpoint(
        reference, tmp_path / "checkpoint", "bin" if file.endswith("bin") else "safetensors"
    )
    (folder / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(
        ArtifactError,
        match=r"is a Git LFS pointer; missing: transformer\.wte\.weight and 20 more tensors",
    ):
        load_checkpoint(folder)


def test_a_folder_without_a_valid_config_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere/config\.json does not exist"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "file").write_text("text")
    with pytest.raises(ArtifactError, match=r"file/config\.json cannot be read"):
        load_checkpoint(tmp_path / "file")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"config\.json holds a JSON list"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"config\.json is not JSON"):
        load_checkpoint(tmp_path)


def test_for_a_config_of_a_larger_model_the_error_names_the_first_tensor_that_does_not_fit(
    tmp_path: Path,
) -> None:
    """The 16.1B model would need 64 GB: names are checked first, then shapes."""
    folder = write_modified_checkpoint(SMALL_MODEL, tmp_path, "safetensors", lambda _: None)
    shape = {
        "n_layer": 34,
        "n_head": 24,
        "n_embd": 6144,
        "rotary_dim": 64,
        "n_positions": 2048,
        "vocab_size": 51_200,
    }
    values = released_config(transformers_model(SMALL_MODEL).config) | shape
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=r"lacks the tensor transformer\.h\.2\.ln_1\.weight"):
        load_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps(values | {"n_layer": 2}))
    with pytest.raises(
        ArtifactError, match=r"has transformer\.wte\.weight of shape \[100, 32\]\n.*\[51200, 6144\]"
    ):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gptj"}, "has model_type 'gptj'\n.*'codegen'"),
        ({"model_type": None}, "has model_type None"),
        ({"activation_function": "relu"}, "has activation_function 'relu'"),
        ({"layer_norm_epsilon": 1e-6}, "has layer_norm_epsilon 1e-06"),
        ({"tie_word_embeddings": True}, "has tie_word_embeddings True"),
        ({"n_inner": 64}, "has n_inner 64"),
        ({"n_layer": None}, "has no 'n_layer'"),
        ({"n_layer": "two"}, "has n_layer 'two'"),
        ({"n_head": 0}, "has n_head 0"),
        ({"n_layer": 30_000}, "has n_layer 30000\n.*1 to 1,000"),
        ({"n_embd": 1 << 40}, "has n_embd 1099511627776"),
        ({"vocab_size": 10**30}, "has vocab_size 10{30}\n"),
        ({"n_head": True}, "has n_head True"),
        ({"n_head": 5}, "has n_embd 32 and n_head 5"),
        ({"n_head": 2}, "describes an invalid model\n.*num_heads must be a multiple of 4"),
        (
            {"rotary_dim": 10},
            "describes an invalid model\n.*rotary_dim must be even and at most head_dim 8",
        ),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_a_config_of_another_model_is_an_error(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    values = released_config(transformers_model(SMALL_MODEL).config) | change
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=rf"config\.json {message}"):
        load_config(tmp_path)


def test_a_config_that_is_nested_too_deeply_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match=r"config\.json is not JSON"):
        load_config(tmp_path)
