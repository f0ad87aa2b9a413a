"""GPT-2's real vocabulary, and tokenizers built from it."""

from __future__ import annotations

import lzma
import uuid
from pathlib import Path

import pytest
from fixtures.fixed_length_corpus import BYTES_ONLY
from fixtures.s3 import Bucket, new_bucket
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from components.tokenizer.config import TokenizerConfig
from components.tokenizer.encoder import Encoder
from components.tokenizer.vocabulary import build_tokenizer

GOLDEN = Path(__file__).parents[2] / "golden"

SMALL = TokenizerConfig(num_merges=600)


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's table of ranks, as `codegen data pull` writes it (OpenAI, MIT; it lies in openai-whisper's archive)."""
    path = tmp_path_factory.mktemp("vocabulary") / "gpt2.tiktoken"
    path.write_bytes(lzma.decompress((GOLDEN / "gpt2.tiktoken.xz").read_bytes()))
    return path


@pytest.fixture(scope="session")
def full_folder(ranks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CodeGen's tokenizer: all merges."""
    folder = tmp_path_factory.mktemp("full")
    build_tokenizer(ranks, TokenizerConfig(), folder)
    return folder


@pytest.fixture(scope="session")
def small_folder(ranks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer cut as `SMALL` says."""
    folder = tmp_path_factory.mktemp("small")
    build_tokenizer(ranks, SMALL, folder)
    return folder


@pytest.fixture(scope="session")
def bytes_only(ranks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer without merges."""
    folder = tmp_path_factory.mktemp("bytes-only")
    build_tokenizer(ranks, BYTES_ONLY, folder)
    return folder


@pytest.fixture(scope="session")
def small(small_folder: Path) -> Encoder:
    return Encoder(small_folder)


@pytest.fixture(scope="session")
def full(full_folder: Path) -> Encoder:
    return Encoder(full_folder)


@pytest.fixture(scope="session")
def full_transformers(full_folder: Path) -> PreTrainedTokenizerBase:
    """CodeGen's tokenizer as a user loads it."""
    return AutoTokenizer.from_pretrained(full_folder)


@pytest.fixture(scope="session")
def small_transformers(small_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(small_folder)


@pytest.fixture
def bucket(s3_endpoint: str) -> Bucket:
    """An empty bucket on a real S3 server."""
    return new_bucket(s3_endpoint, f"bucket-{uuid.uuid4().hex}")
