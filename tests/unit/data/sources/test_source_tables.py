"""Parquet and Avro: columns of other tools, bad rows, and damage that the libraries accept."""

from __future__ import annotations

import io

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.sources import avro, parquet, read, rows

from components.core.errors import ConfigError, RecordError
from components.data.sources.config import Source
from components.data.sources.partition_reader import read_partition
from components.data.sources.partitions import list_partitions

STACK = {
    "hexsha": "00ff",
    "lang": "C++",
    "content": "int a;\n",
    "max_stars_repo_path": "src/a.h",
    "max_stars_repo_name": "octo/a",
    "max_stars_repo_licenses": ["MIT", "BSD-3-Clause"],
    "max_stars_count": 3,
    "alphanum_fraction": 0.5,
}
RECORD = {
    "language": "C++",
    "license": "MIT, BSD-3-Clause",
    "path": "src/a.h",
    "source": "octo/a",
    "text": "int a;\n",
}
GITHUB = {"content": "a = 1\n", "path": "a.py", "repo": "octo/a", "license": "mit"}
GITHUB_RECORD = {
    "language": "Python",
    "license": "mit",
    "path": "a.py",
    "source": "octo/a",
    "text": "a = 1\n",
}
AVRO = {
    "type": "record",
    "name": "f",
    "fields": [{"name": name, "type": ["null", "string"]} for name in GITHUB],
}


def numbered(count):
    return [{**GITHUB, "content": f"{number}\n"} for number in range(count)]


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zstd"}, {"use_dictionary": False, "compression": "gzip"}],
    ids=str,
)
def test_the_stack_as_parquet_needs_no_field_names(tmp_path, options):
    (tmp_path / "0000.parquet").write_bytes(parquet([STACK] * 3, **options))
    assert rows(read(tmp_path / "*.parquet")) == [RECORD] * 3


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.binary(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.string_view(),
    ],
    ids=str,
)
def test_text_may_have_any_string_type(tmp_path, kind):
    table = pa.table(
        {"code": pa.array(["a\n", "ä\n", "a\n"]).cast(kind), "path": ["1.py", "2.py", "3.py"]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert [row["text"] for row in rows(read(tmp_path / "a.parquet"))] == ["a\n", "ä\n", "a\n"]


def test_name_can_select_a_field_of_a_struct(tmp_path):
    (tmp_path / "a.parquet").write_bytes(
        parquet([{"text": "a", "meta": {"pile_set_name": "ArXiv", "id": 7}}])
    )
    source = Source(
        uri=str(tmp_path / "a.parquet"), name="meta.pile_set_name", fixed_language="English"
    )
    assert [row["source"] for row in rows(read(source, ["English"]))] == ["ArXiv"]


def test_bad_parquet_rows_are_quarantined_by_row_number(tmp_path):
    texts = [b"1", b"\xff2", b"3", None, b"\x005", b"6" * 99, b"7"]
    binary = pa.array(texts, pa.binary())
    # Like a writer that does not check UTF-8.
    validity, *offsets_and_data = binary.buffers()
    invalid = pa.StringArray.from_buffers(len(texts), *offsets_and_data, validity)
    pq.write_table(
        pa.table({"content": invalid, "path": ["a.py"] * 7}),
        tmp_path / "a.parquet",
        row_group_size=2,
    )
    (batch,) = read(tmp_path / "a.parquet", max_record_bytes=50)
    assert batch.records["text"].to_pylist() == ["1", "3", "7"]
    assert [(bad.offset, bad.reason.partition(":")[0]) for bad in batch.quarantined] == [
        (1, "not UTF-8"),
        (3, "no text"),
        (4, "NUL character"),
        (5, "too long"),
    ]
    assert batch.quarantined[0].excerpt == "content=\\xff2, path=a.py"


def test_large_parquet_file_is_split_into_partitions(tmp_path):
    content = parquet(numbered(50), row_group_size=5)
    (tmp_path / "a.parquet").write_bytes(content)
    source = Source(uri=str(tmp_path / "a.parquet"))
    partitions = list_partitions([source], split_bytes=len(content) // 3)
    assert [(item.first_row_group, item.last_row_group) for item in partitions] == [
        (0, 3),
        (4, 7),
        (8, 9),
    ]
    assert [item.name.rpartition("[")[2] for item in partitions] == ["0:3]", "4:7]", "8:9]"]
    batches = [batch for item in partitions for batch in read_partition(item, ["Python"])]
    assert [text for batch in batches for text in batch.records["text"].to_pylist()] == [
        f"{n}\n" for n in range(50)
    ]


def test_row_numbers_of_a_later_partition_count_from_the_file_start(tmp_path):
    content = parquet([*numbered(8), {**GITHUB, "content": "\0"}, *numbered(1)], row_group_size=2)
    (tmp_path / "a.parquet").write_bytes(content)
    partitions = list_partitions([Source(uri=str(tmp_path / "a.parquet"))], split_bytes=1)
    offsets = {
        item.first_row_group: bad.offset
        for item in partitions
        for batch in read_partition(item, ["Python"])
        for bad in batch.quarantined
    }
    assert offsets == {4: 8}


def test_damaged_column_name_raises_record_error(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet([GITHUB]).replace(b"license", b"lic\xe5nse"))
    with pytest.raises(RecordError, match=r"a\.parquet is damaged or truncated"):
        list(read(tmp_path / "a.parquet"))


@pytest.mark.parametrize("codec", ["null", "deflate", "snappy", "bzip2"])
def test_avro_is_read_in_the_codecs_of_bigquery_and_others(tmp_path, codec):
    (tmp_path / "000.avro").write_bytes(avro([GITHUB] * 50, AVRO, codec=codec, sync_interval=300))
    assert rows(read(tmp_path / "*.avro")) == [GITHUB_RECORD] * 50


def test_other_avro_codec_raises_record_error(tmp_path):
    (tmp_path / "a.avro").write_bytes(avro([GITHUB], AVRO, codec="xz"))
    with pytest.raises(RecordError, match=r"a\.avro is damaged or truncated: its codec is xz"):
        list(read(tmp_path / "a.avro"))


def test_bad_avro_records_are_quarantined_by_number(tmp_path):
    content = avro([{**GITHUB, "content": text} for text in ("1", "@@", None, "4\0", "5")], AVRO)
    (tmp_path / "a.avro").write_bytes(content.replace(b"@@", b"\xff@"))
    (batch,) = read(tmp_path / "a.avro")
    assert batch.records["text"].to_pylist() == ["1", "5"]
    assert [(bad.offset, bad.reason.partition(":")[0]) for bad in batch.quarantined] == [
        (1, "not UTF-8"),
        (2, "no text"),
        (3, "NUL character"),
    ]


@pytest.mark.parametrize("name", ["a.parquet", "a.avro"])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"text": "body"}, "body for text"),
        ({"license": "licenses"}, "licenses for license"),
        ({"name": "meta.repo"}, r"meta\.repo for source"),
        ({"path": "where", "language": "what"}, "where for path, what for language"),
    ],
    ids=["text", "license", "name", "path and language"],
)
def test_missing_named_column_raises_an_error_with_all_columns(tmp_path, name, source, message):
    (tmp_path / name).write_bytes(
        parquet([GITHUB]) if name == "a.parquet" else avro([GITHUB], AVRO)
    )
    with pytest.raises(ConfigError, match=message) as error:
        list(read(Source(uri=str(tmp_path / name), **source)))
    assert "has the columns content, path, repo, license" in error.value.got


def test_table_without_language_and_path_raises_config_error(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet([{"text": "a", "place": "a.py"}]))
    with pytest.raises(ConfigError, match="lang or path or max_stars_repo_path") as error:
        list(read(tmp_path / "a.parquet"))
    assert "`language`, `path` or `fixed_language`" in error.value.fix


def test_table_without_text_raises_config_error(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet([{"body": "a", "path": "a.py"}]))
    with pytest.raises(ConfigError, match="text or content or code for text"):
        list(read(tmp_path / "a.parquet"))


@pytest.mark.parametrize("name", ["a.parquet", "a.avro"])
@pytest.mark.parametrize(
    "content", [b"", b"no table", b"PAR1", b"Obj\x01"], ids=["nothing", "text", "PAR1", "Obj"]
)
def test_invalid_table_file_raises_an_error_with_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordError, match=f"{name} is damaged or truncated"):
        list(read(tmp_path / name))


def blocks_of(content):
    return list(fastavro.block_reader(io.BytesIO(content)))


def test_avro_block_with_a_wrong_record_count_is_damaged(tmp_path):
    content = bytearray(avro(numbered(20), AVRO))
    (block,) = blocks_of(bytes(content))
    assert content[block.offset] == 40  # 20, zigzag
    for stated in (0, 5, 19, 21, 63):
        content[block.offset] = 2 * stated
        (tmp_path / "a.avro").write_bytes(content)
        with pytest.raises(RecordError, match=r"a\.avro is damaged or truncated"):
            list(read(tmp_path / "a.avro"))


def test_checksum_of_a_snappy_block_is_verified(tmp_path):
    content = bytearray(avro(numbered(2), AVRO, codec="snappy"))
    (block,) = blocks_of(bytes(content))
    content[block.offset + block.size - 16 - 1] ^= 1
    (tmp_path / "a.avro").write_bytes(content)
    with pytest.raises(RecordError, match="has a wrong checksum"):
        list(read(tmp_path / "a.avro"))


def test_cut_between_avro_blocks_is_detected_by_the_listed_size(tmp_path):
    content = avro(numbered(60), AVRO, sync_interval=300)
    cut = blocks_of(content)[1].offset
    (tmp_path / "a.avro").write_bytes(content)
    (partition,) = list_partitions([Source(uri=str(tmp_path / "a.avro"))])
    (tmp_path / "a.avro").write_bytes(content[:cut])
    with pytest.raises(RecordError, match=rf"a\.avro has {cut} bytes"):
        list(read_partition(partition, ["Python"]))


def test_cut_inside_an_avro_block_count_is_damage(tmp_path):
    content = avro(numbered(200), AVRO, sync_interval=3000)
    second = blocks_of(content)[1]
    assert second.num_records >= 64  # Two bytes.
    (tmp_path / "a.avro").write_bytes(content[: second.offset + 1])
    with pytest.raises(RecordError, match=f"in the block at byte {second.offset}"):
        list(read(tmp_path / "a.avro"))


def test_damaged_avro_length_allocates_no_memory(tmp_path):
    content = avro(numbered(3), AVRO)
    (block,) = blocks_of(content)
    huge = b"\x06\xfe\xff\xff\xff\xff\xff\xff\xff\x7f"  # 3 records in 2**62 bytes
    (tmp_path / "a.avro").write_bytes(content[: block.offset] + huge + content[block.offset + 3 :])
    with pytest.raises(RecordError, match=r"a\.avro is damaged or truncated"):
        list(read(tmp_path / "a.avro"))


def test_parquet_row_counts_that_disagree_are_damage(tmp_path):
    content = bytearray(parquet(numbered(30), compression="none", use_dictionary=False))
    footer = int.from_bytes(content[-8:-4], "little")
    # In Thrift's compact protocol 30 rows are the byte 60, for example in the metadata of the file
    # and in those of the row group.
    places = [at for at in range(len(content) - 8 - footer, len(content) - 8) if content[at] == 60]
    outcomes = set()
    for at in places:
        content[at] = 44  # 22 rows
        (tmp_path / "a.parquet").write_bytes(content)
        content[at] = 60
        try:
            outcomes.add(sum(batch.records.num_rows for batch in read(tmp_path / "a.parquet")))
        except RecordError as error:
            outcomes.add("states" in error.got or "damaged" in error.got)
    assert outcomes <= {True, 30}
    assert True in outcomes
