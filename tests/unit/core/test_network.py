from __future__ import annotations

import socket

import pytest

from components.core.errors import CodegenError
from components.core.network import free_port, require_free_port


def test_a_port_in_use_is_an_error_that_names_the_option() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            CodegenError, match=rf"{port} of 127\.0\.0\.1 is in use(.|\n)*--prefect-port"
        ):
            require_free_port("Prefect", port)


def test_a_free_port_can_be_listened_on() -> None:
    port = free_port()
    require_free_port("MLflow", port)
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
