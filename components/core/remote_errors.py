"""Opens storage by URI and converts its errors (folders, S3, SSH, HTTP) to errors of this project.

Client libraries raise exceptions of their own, most of them outside `OSError`, and which libraries
are installed is not known here. Retries are the business of each client library.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem, make_path_posix

from components.core.errors import CodegenError, ConfigError, RemoteError
from components.core.extras import require_extra
from components.core.files import wrap_disk_full


def open_file_system(
    uri: str, storage_options: Mapping[str, Any] | None = None
) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of a path or URI, and the path on it.

    Args:
        uri: a local path or an fsspec URI.
        storage_options: options of a remote file system, such as endpoint and key.

    Raises:
        ConfigError: the protocol does not exist, or its package is not installed.
    """
    if (
        "://" not in uri and "::" in uri
    ):  # A file name, which fsspec would take for a chain of URLs.
        return LocalFileSystem(), make_path_posix(uri).rstrip("/")
    is_local = "://" not in uri or uri.startswith(("file://", "local://"))
    if uri.startswith(("s3://", "s3a://")):
        require_extra("s3", uri)
    options = {} if is_local else dict(storage_options or {})
    try:
        return cast(tuple[fsspec.AbstractFileSystem, str], fsspec.url_to_fs(uri, **options))
    except (ImportError, ValueError) as error:  # fsspec names the missing package or protocol.
        raise ConfigError(
            f"{uri} cannot be opened: {error}",
            expected="a local path, or a URI of an installed fsspec protocol",
            fix="install the package of the protocol, or correct the URI",
        ) from error


@contextmanager
def wrap_remote_errors(doing: str, remote: str) -> Iterator[None]:
    """Convert any exception of a client library to a `RemoteError` that names the remote.

    Errors of this project and a full disk are not converted.

    Args:
        doing: the action, as in "pushing data/".
        remote: name or URL of the remote.
    """
    try:
        with wrap_disk_full(doing):
            yield
    except CodegenError:
        raise
    except Exception as error:  # A boundary to another machine, with unknown exception types.
        raise RemoteError(
            f"{remote} failed while {doing}: {_one_line(error)}",
            expected="storage that answers, with the right to read and write there",
            fix="check its address, credentials and connection, then run the same command again, "
            "which resumes",
        ) from error


@contextmanager
def wrap_read_errors(
    name: str,
    error_type: type[CodegenError],
    *,
    missing_fix: str = "check the path or URI, then run the same command again",
) -> Iterator[None]:
    """Convert errors of reading a file, local or remote, to `error_type`.

    Errors of this project are not converted.

    Args:
        name: path or URI of the file.
        error_type: class of the raised error.
        missing_fix: `fix` of the error if the file does not exist.
    """
    try:
        yield
    except FileNotFoundError as error:
        got = f"{name} does not exist"
        raise error_type(got, expected="an existing file", fix=missing_fix) from error
    except _client_errors() as error:
        raise error_type(
            f"{name} cannot be read: {type(error).__name__}: {_one_line(error)}",
            expected="storage that answers, and permission to read",
            fix="check permissions, network and storage options (endpoint, credentials), then run "
            "the same command again",
        ) from error


def _client_errors() -> tuple[type[Exception], ...]:
    """Exception types of file systems and of imported object store clients."""
    classes = (
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("aiohttp", "ClientError"),
    )
    imported = [(sys.modules[module], name) for module, name in classes if module in sys.modules]
    return (OSError, *(getattr(module, name) for module, name in imported))


def _one_line(error: Exception) -> str:
    """The message on one line, or the exception's type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
