"""URLs of SQLite files, read back by SQLAlchemy and by our own code."""

from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from components.core.sqlite import sqlite_path, sqlite_url

NAMES = ["plain", "a b", "a?b", "a?b=c&uri=false", "a#b", "a%20b", "%3F?", "été", "a+b;c", "file:x"]


@pytest.mark.parametrize("name", NAMES)
def test_sqlalchemy_opens_the_file_that_the_url_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "mlflow.db"
    path.parent.mkdir()
    engine = create_engine(sqlite_url(path))
    with closing(engine.connect()) as connection:
        connection.execute(text("CREATE TABLE t (x)"))
    engine.dispose()
    assert path.is_file()
    assert [file.name for file in tmp_path.rglob("*")] == [name, "mlflow.db"]


@pytest.mark.parametrize("driver", ["pysqlite", "aiosqlite"])
@pytest.mark.parametrize("name", NAMES)
def test_the_path_of_a_url_is_the_path_it_was_built_from(name: str, driver: str) -> None:
    path = Path("/workspace") / name / "mlflow.db"
    assert sqlite_path(sqlite_url(path, driver)) == path


def test_options_do_not_belong_to_the_path_and_other_databases_have_none() -> None:
    assert sqlite_path("sqlite:///var/mlflow.db?timeout=5") == Path("var/mlflow.db")
    for url in ("http://host/x", "postgresql:///mlflow", "mysql+pymysql://host/x", "var/mlflow.db"):
        assert sqlite_path(url) is None
