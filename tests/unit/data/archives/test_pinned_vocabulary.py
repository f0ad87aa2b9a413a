"""GPT-2's vocabulary without a preset: fetched, copied, or given by the user."""

from __future__ import annotations

import base64
import json
import lzma
import shutil
from pathlib import Path

import pytest
from fixtures.projects import UNREACHABLE_INDEX, FixtureArchives, pull_fixtures

from components.core.errors import DataError, FetchError
from components.core.fingerprint import sha256_file
from components.data.archives.vocabulary import RANKS_FILE, OwnRanks, load_vocabulary
from components.tokenizer.vocabulary import byte_characters, read_own_ranks

GOLDEN = Path(__file__).parents[3] / "golden" / "gpt2.tiktoken.xz"


def load(fixtures: FixtureArchives, cache: Path, **changes: object):
    arguments = {"archives": fixtures.folder, "index": lambda: UNREACHABLE_INDEX, **changes}
    return load_vocabulary(fixtures.pins.vocabulary, cache, **arguments)


def test_only_the_archive_of_the_vocabulary_is_needed(
    fixture_archives: FixtureArchives, tmp_path: Path
) -> None:
    folder = tmp_path / "archives"
    folder.mkdir()
    source = fixture_archives.pins.vocabulary[0]
    shutil.copy(fixture_archives.folder / source.file, folder)
    vocabulary = load(fixture_archives, tmp_path / "cache", archives=folder)
    file = Path(vocabulary.address) / RANKS_FILE
    assert sha256_file(file) == source.member_sha256
    assert [entry.path for entry in vocabulary.files] == [RANKS_FILE]
    again = load(fixture_archives, tmp_path / "cache", archives=None)
    assert again == vocabulary, "it is reused without an archive"


def test_the_copy_of_a_preset_is_the_same_artifact(
    project: Path, fixture_archives: FixtureArchives, tmp_path: Path
) -> None:
    pull_fixtures(project, fixture_archives)
    fetched = load(fixture_archives, tmp_path / "one")
    copied = load(
        fixture_archives,
        tmp_path / "two",
        archives=None,
        copy=project / "data/vocabulary" / RANKS_FILE,
    )
    assert (copied.digest, copied.recipe_hash) == (fetched.digest, fetched.recipe_hash)


def test_a_damaged_copy_and_a_damaged_cache_are_not_used(
    fixture_archives: FixtureArchives, tmp_path: Path
) -> None:
    damaged = tmp_path / RANKS_FILE
    damaged.write_text("damaged")
    file = Path(load(fixture_archives, tmp_path / "cache", copy=damaged).address) / RANKS_FILE
    file.write_text("damaged")
    load(fixture_archives, tmp_path / "cache")
    assert sha256_file(file) == fixture_archives.pins.vocabulary[0].member_sha256


def test_a_vocabulary_that_cannot_be_fetched_is_one_error(
    fixture_archives: FixtureArchives, tmp_path: Path
) -> None:
    with pytest.raises(FetchError) as caught:
        load(fixture_archives, tmp_path / "cache", archives=None)
    assert caught.value.got.startswith("GPT-2's vocabulary cannot be fetched: ")
    assert "CODEGEN_ARCHIVES" in caught.value.fix
    assert "CODEGEN_VOCABULARY" in caught.value.fix
    assert isinstance(caught.value.__cause__, OSError), "a flow retries errors of the network"


def test_a_file_of_the_user_must_have_the_pinned_bytes(
    fixture_archives: FixtureArchives, tmp_path: Path
) -> None:
    ranks = Path(load(fixture_archives, tmp_path / "cache").address) / RANKS_FILE
    pinned = OwnRanks(ranks, ranks.read_bytes())
    own = load(fixture_archives, tmp_path / "own", archives=None, own_ranks=pinned)
    assert own.digest == load(fixture_archives, tmp_path / "cache").digest
    with pytest.raises(DataError) as caught:
        other = OwnRanks(tmp_path / "vocab.json", b"IQ== 0\n")
        load(fixture_archives, tmp_path / "other", own_ranks=other)
    assert str(tmp_path / "vocab.json") in caught.value.got
    assert "CODEGEN_VOCABULARY" in caught.value.fix
    assert not (tmp_path / "other").exists()


def test_vocab_json_of_gpt2_gives_the_table_of_tiktoken(tmp_path: Path) -> None:
    """The tokens of vocab.json are computed here from the golden table, with `<|endoftext|>` and
    the white space of CodeGen after it."""
    table = lzma.decompress(GOLDEN.read_bytes())
    characters = byte_characters()
    tokens = {}
    for line in table.splitlines():
        token, rank = line.split()
        tokens["".join(characters[byte] for byte in base64.b64decode(token))] = int(rank)
    tokens |= {"<|endoftext|>": 50_256, "  ": 50_286}
    (tmp_path / "vocab.json").write_text(json.dumps(dict(reversed(tokens.items()))))
    assert read_own_ranks(tmp_path) == table
    assert read_own_ranks(tmp_path / "vocab.json") == table
    (tmp_path / RANKS_FILE).write_bytes(table)
    assert read_own_ranks(tmp_path / RANKS_FILE) == table


@pytest.mark.parametrize("content", [None, "[1]", '{"a": "b"}', '{"\\u4e2d": 0}', "{"])
def test_an_unusable_file_of_the_user_is_an_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(DataError) as caught:
        read_own_ranks(tmp_path)
    assert str(tmp_path) in caught.value.got
    assert "CODEGEN_VOCABULARY" in caught.value.fix
