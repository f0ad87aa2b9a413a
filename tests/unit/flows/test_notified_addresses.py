"""Who cannot be told is said before any server is asked."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from components.core.errors import ConfigError
from flows.cli.main import app
from flows.runtime.events import subscribe


@pytest.mark.parametrize(
    "address",
    [
        "",
        "hooks.example.org",
        "ftp://hooks.example.org",
        "http://",
        "https:///T1",
        "http://[::1/T1",
        "http://a:port/",
    ],
)
def test_an_address_where_nobody_is(address: str) -> None:
    with pytest.raises(ConfigError, match="there is nobody at the address"):
        subscribe(address, ("failed",))


def test_no_password_is_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        subscribe("smtp://robot:secret@example.org", ("failed",))
    assert "secret" not in str(caught.value)


def test_an_occasion_that_is_none() -> None:
    with pytest.raises(ConfigError, match="no occasion 'never'"):
        subscribe("https://hooks.example.org", ("never",))


@pytest.mark.parametrize(
    "command",
    [
        ["serve", "--prefect-port=0"],
        ["ui", "--mlflow-port=65536"],
        ["models", "serve", "a", "--port=-1"],
    ],
)
def test_a_port_that_cannot_be_is_wrong_usage(command: list[str]) -> None:
    assert CliRunner().invoke(app, command).exit_code == 2
