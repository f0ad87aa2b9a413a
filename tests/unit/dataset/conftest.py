"""A tokenizer for prepared corpora, and S3 buckets."""

from __future__ import annotations

import uuid

import pytest
from fixtures.s3 import Bucket, new_bucket
from fixtures.tokenizer_folders import ranks, small_folder

__all__ = ["bucket", "ranks", "small_folder"]


@pytest.fixture
def bucket(s3_endpoint: str) -> Bucket:
    """An empty bucket on a real S3 server."""
    return new_bucket(s3_endpoint, f"bucket-{uuid.uuid4().hex}")
