"""Invalid notification URLs, events and ports are rejected before any server is contacted."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from components.core.errors import ConfigError
from flows.cli.main import app
from flows.deploy.automations import subscribe


@pytest.mark.parametrize(
    "url",
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
def test_an_invalid_url_is_an_error(url: str) -> None:
    with pytest.raises(ConfigError, match="is not a valid notification URL"):
        subscribe(url, ("failed",))


def test_the_error_contains_no_password() -> None:
    with pytest.raises(ConfigError) as caught:
        subscribe("smtp://robot:secret@example.org", ("failed",))
    assert "secret" not in str(caught.value)


def test_an_unknown_event_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no event 'never'"):
        subscribe("https://hooks.example.org", ("never",))


@pytest.mark.parametrize(
    "command",
    [
        ["serve", "--prefect-port=0"],
        ["ui", "--mlflow-port=65536"],
        ["models", "serve", "a", "--port=-1"],
    ],
)
def test_an_invalid_port_is_wrong_usage(command: list[str]) -> None:
    assert CliRunner().invoke(app, command).exit_code == 2
