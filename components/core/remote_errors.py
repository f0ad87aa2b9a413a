"""Storage elsewhere, and what it says when it fails.

Design decision: every kind of remote (a folder, S3, SSH) has an exception tree of its own, most of
it outside `OSError`, and which kinds are installed is not known here. So this is a process
boundary: whatever the other side raises becomes one `RemoteError`. What is not covered: retries,
which each client library does by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from components.core.errors import CodegenError, RemoteError
from components.core.files import wrap_disk_full


@contextmanager
def wrap_remote_errors(doing: str, where: str) -> Iterator[None]:
    """Turn what a client library raises inside into a `RemoteError` that names the place; ours and
    a full disk stay.

    Args:
        doing: what was being done, as in "pushing data/".
        where: the remote, by its name or URL.
    """
    try:
        with wrap_disk_full(doing):
            yield
    except CodegenError:
        raise
    except Exception as error:  # The boundary to another machine: see above.
        said = " ".join(str(error).split()) or type(error).__name__
        raise RemoteError(
            f"{where} failed while {doing}: {said}",
            expected="storage that answers, with the right to read and write there",
            fix="mend its address, credentials or connection, then run the same command again: it "
            "goes on where it was",
        ) from error


def client_errors() -> tuple[type[Exception], ...]:
    """What file systems and clients of object stores raise, for readers that make an error of their
    own of it.

    A module that nobody imported has raised nothing.
    """
    known = (
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("aiohttp", "ClientError"),
    )
    return (
        OSError,
        *(getattr(sys.modules[module], name) for module, name in known if module in sys.modules),
    )
