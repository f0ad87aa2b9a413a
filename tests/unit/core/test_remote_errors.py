"""Errors of remote storage as errors of this project."""

from __future__ import annotations

import errno

import botocore.exceptions
import pytest

from components.core.errors import ArtifactError, DataError, FetchError, RemoteError
from components.core.remote_errors import wrap_read_errors, wrap_remote_errors


def test_missing_file_is_reported_with_its_own_fix() -> None:
    with (
        pytest.raises(ArtifactError) as error,
        wrap_read_errors("s3://b/x", ArtifactError, missing_fix="publish it"),
    ):
        raise FileNotFoundError(errno.ENOENT, "gone", "b/x")
    assert (error.value.got, error.value.fix) == ("s3://b/x does not exist", "publish it")


@pytest.mark.parametrize(
    "cause",
    [
        PermissionError(errno.EACCES, "denied\n  twice"),
        botocore.exceptions.NoCredentialsError(),
        botocore.exceptions.ClientError({"Error": {"Code": "403"}}, "GetObject"),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_error_of_a_client_is_converted_with_its_type_on_one_line(cause: Exception) -> None:
    with pytest.raises(FetchError) as error, wrap_read_errors("a.jsonl", FetchError):
        raise cause
    assert error.value.got.startswith(f"a.jsonl cannot be read: {type(cause).__name__}: ")
    assert "\n" not in error.value.got
    assert error.value.__cause__ is cause


@pytest.mark.parametrize("cause", [DataError("a", expected="b", fix="c"), ZeroDivisionError()])
def test_other_errors_of_a_read_are_not_converted(cause: Exception) -> None:
    with pytest.raises(type(cause)) as error, wrap_read_errors("a.jsonl", FetchError):
        raise cause
    assert error.value is cause


def test_any_error_of_a_remote_is_converted_except_our_own() -> None:
    with (
        pytest.raises(RemoteError, match="the store failed while copying: ZeroDivisionError"),
        wrap_remote_errors("copying", "the store"),
    ):
        raise ZeroDivisionError
    with pytest.raises(DataError), wrap_remote_errors("copying", "the store"):
        raise DataError("a", expected="b", fix="c")
