"""Who changes a registered model waits for whoever does so on the same host, whichever workspace they come from."""

from __future__ import annotations

import logging
import tempfile
import threading
from pathlib import Path

import pytest

from components.registry.tracking import Tracking

NAME = "codegen-tiny-mono"


class _Told(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.was_told = threading.Event()

    def emit(self, _: logging.LogRecord) -> None:
        self.was_told.set()


@pytest.fixture
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_two_workspaces_of_one_server_take_turns(own_temporary_folder: Path) -> None:
    one = Tracking("http://ada:secret@tracking:5000", own_temporary_folder / "one")
    other = Tracking("http://grace:other@tracking:5000/", own_temporary_folder / "other")
    told, entered = _Told(), threading.Event()

    def change() -> None:
        with other.model_lock(NAME):
            entered.set()

    logging.getLogger("components.core.locks").addHandler(told)
    waiting = threading.Thread(target=change, daemon=True)
    try:
        with one.model_lock(NAME):
            waiting.start()
            assert told.was_told.wait(30)
            assert not entered.is_set()
        waiting.join(30)
    finally:
        logging.getLogger("components.core.locks").removeHandler(told)
    assert entered.is_set()


def test_other_models_and_other_servers_are_not_waited_for(own_temporary_folder: Path) -> None:
    one = Tracking("http://tracking:5000", own_temporary_folder)
    other = Tracking("http://tracking:5001", own_temporary_folder)
    with one.model_lock(NAME), one.model_lock("codegen-tiny-nl"), other.model_lock(NAME):
        pass
