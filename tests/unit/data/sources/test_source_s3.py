"""Sources on S3: s3fs with moto's server."""

from __future__ import annotations

from urllib.parse import urlsplit

import boto3
import pytest
from fixtures.sources import LANGUAGES, avro, gz, jsonl, parquet, read, rows, zipped, zstd

from components.core.errors import DataError, FetchError, RecordError
from components.data.sources.config import Source
from components.data.sources.partition_reader import read_partition
from components.data.sources.partitions import list_partitions

ROWS = [
    {"content": f"{number}\n", "path": f"{number}.py", "repo": "octo/a", "license": "mit"}
    for number in range(9)
]
SCHEMA = {
    "type": "record",
    "name": "f",
    "fields": [{"name": name, "type": "string"} for name in ROWS[0]],
}
OBJECTS = {
    "plain/a.jsonl": jsonl(ROWS),
    "gzip/a.json.gz": gz(jsonl(ROWS)),
    "zstd/a.jsonl.zst": zstd(jsonl(ROWS)),
    "parquet/a.parquet": parquet(ROWS, row_group_size=3),
    "avro/a.avro": avro(ROWS, SCHEMA, codec="deflate"),
    "zip/a.zip": zipped({row["path"]: row["content"].encode() for row in ROWS}),
    "files/": b"",  # A console creates such a marker for a folder.
    "files/src/a.py": b"a = 1\n",
    "files/README": b"read me\n",
}


@pytest.fixture(scope="module")
def storage(s3_endpoint: str):
    """The storage options of a bucket `corpus` that holds `OBJECTS`."""
    options = {"key": "testing", "secret": "testing", "client_kwargs": {"region_name": "us-east-1"}}
    options["endpoint_url"] = s3_endpoint
    client = boto3.client(
        "s3",
        endpoint_url=options["endpoint_url"],
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",  # noqa: S106 - moto takes any
    )
    client.create_bucket(Bucket="corpus")
    for key, content in OBJECTS.items():
        client.put_object(Bucket="corpus", Key=key, Body=content)
    yield options
    client.close()


@pytest.mark.parametrize(
    "glob", ["plain/*.jsonl", "gzip/*.gz", "zstd/a.jsonl.zst", "parquet/*", "avro/*", "zip/a.zip"]
)
def test_each_format_is_read_from_s3(storage, glob):
    records = rows(read(f"s3://corpus/{glob}", storage_options=storage))
    assert [record["text"] for record in records] == [row["content"] for row in ROWS]


def test_folder_of_code_files_is_read_from_s3(storage):
    (partition,) = list_partitions([Source(uri="s3://corpus/files")], storage_options=storage)
    assert (partition.name, partition.uri, partition.size_bytes) == (
        "s3://corpus/files/",
        "s3://corpus/files",
        14,
    )
    (batch,) = read_partition(partition, LANGUAGES, storage_options=storage)
    (row,) = batch.records.to_pylist()
    assert (row["path"], row["source"], batch.num_skipped) == ("src/a.py", "files", {"language": 1})


def test_partitions_do_not_contain_endpoint_or_credentials(storage):
    for partition in list_partitions([Source(uri="s3://corpus/*/a.*")], storage_options=storage):
        assert "testing" not in partition.model_dump_json()
        assert urlsplit(storage["endpoint_url"]).netloc not in partition.model_dump_json()


def test_object_that_changed_after_listing_raises_record_error(storage):
    (partition,) = list_partitions(
        [Source(uri="s3://corpus/plain/a.jsonl")], storage_options=storage
    )
    with pytest.raises(RecordError, match=r"s3://corpus/plain/a\.jsonl has"):
        list(read_partition(partition.replace(size_bytes=7), LANGUAGES, storage_options=storage))


def test_missing_bucket_has_no_file(storage):
    with pytest.raises(DataError, match=r"s3://absent/\*\.jsonl"):
        list_partitions([Source(uri="s3://absent/*.jsonl")], storage_options=storage)


def test_unreachable_endpoint_raises_an_error_with_the_source(storage):
    options = {
        **storage,
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    with pytest.raises(FetchError, match=r"s3://corpus/plain/a\.jsonl cannot be read"):
        list_partitions([Source(uri="s3://corpus/plain/a.jsonl")], storage_options=options)
