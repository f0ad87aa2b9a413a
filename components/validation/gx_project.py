"""The Great Expectations project of a workspace: a user of Great Expectations can open and run it.

    great_expectations.yml                  the configuration of the FileDataContext
    tables/raw-documents-nl.parquet         each validated table, from the latest run
    expectations/raw-documents-nl.json      its suite, with all limits filled in
    validation_definitions/, checkpoints/   a checkpoint for each suite file
    uncommitted/validations/                the results of all runs
    uncommitted/data_docs/local_site/       Great Expectations' Data Docs

A validation runs in a context in memory and never reads what users change in this folder. Only a
complete validation is written, each file by a rename, so neither a killed run nor an invalid suite
leaves a damaged file. The caller holds a lock.
"""

from __future__ import annotations

import copy
import html
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
import yaml
from great_expectations.data_context import EphemeralDataContext
from great_expectations.data_context.store import TupleFilesystemStoreBackend
from great_expectations.data_context.types.base import (
    DataContextConfig,
    FilesystemStoreBackendDefaults,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.datasource.fluent import PandasFilesystemDatasource

from components.core.errors import ConfigError
from components.core.files import write_atomic

_PLUGINS = Path(__file__).parent / "plugins"
"""Great Expectations' plug-in folder, which contains `custom_data_docs/styles/*.css`."""
_DATA_SOURCE = "codegen"
_BATCH = "latest"
_SITE = "local_site"
_SITE_FOLDER = f"uncommitted/data_docs/{_SITE}"
_MAX_LISTED_RESULTS = 50
"""Results in the index of Data Docs, which reads each of them (assumption: enough for the latest
runs; `run_pages` lists all)."""


class AtomicStoreBackend(TupleFilesystemStoreBackend):  # type: ignore[misc]
    """Writes files by a rename; Great Expectations would overwrite them in place."""

    def _set(self, key: Any, value: str | bytes, **_: Any) -> str:
        path = Path(self.full_base_directory, self._convert_key_to_filepath(key))
        _write(path, value.encode() if isinstance(value, str) else value)
        return str(path)


_ATOMIC = {"module_name": __name__, "class_name": AtomicStoreBackend.__name__}


def open_validation(root: Path, tables: Mapping[str, pd.DataFrame]) -> EphemeralDataContext:
    """Write tables to a project, which is created if needed; return a context that reads them.

    Raises:
        ConfigError: the project's configuration cannot be read.
    """
    _update_project(root, tables)
    for name, table in tables.items():
        _write(root / "tables" / f"{name}.parquet", _escape_html(table).to_parquet(index=False))
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
        ),
    )
    source = PandasFilesystemDatasource(
        name=_DATA_SOURCE,
        base_directory=root / "tables",
        assets=[
            {"name": name, "type": "parquet", "batch_definitions": [_batch_definition(name)]}
            for name in tables
        ],
    )
    # `add_parquet_asset` would do this too, and serialize the whole context for each table.
    source._rebuild_asset_data_connectors()
    context.data_sources.add_pandas_filesystem(source)
    return context


def table_batch(context: EphemeralDataContext, name: str) -> Any:
    """Return the batch definition of a table."""
    return context.data_sources.get(_DATA_SOURCE).get_asset(name).get_batch_definition(_BATCH)


def publish_validation(context: EphemeralDataContext, root: Path) -> dict[str, str]:
    """Write the content of a context to a project, and its Data Docs.

    Returns:
        By suite: the page of its result, relative to `root`.
    """
    defaults = FilesystemStoreBackendDefaults(root_directory=str(root))
    for store in defaults.stores.values():
        store["store_backend"].update(_ATOMIC)
    project = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=defaults,
            plugins_directory=str(_PLUGINS),
            data_docs_sites={_SITE: _site(root, _ATOMIC)},
            analytics_enabled=False,
        ),
    )
    for name, store in context.stores.items():
        for key in store.store_backend.list_keys():
            project.stores[name].store_backend.set(key, store.store_backend.get(key))
    results = context.validation_results_store.list_keys()
    project.build_data_docs(
        resource_identifiers=[*context.expectations_store.list_keys(), *results]
    )
    return {key.expectation_suite_identifier.name: _page_path(key.to_tuple()) for key in results}


def _page_path(key: tuple[str, ...]) -> str:
    return f"{_SITE_FOLDER}/validations/{'/'.join(key)}.html"


def _write(path: Path, content: bytes) -> None:
    """Write a file by a rename, without waiting for the disk: a run writes hundreds of files."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_bytes(content)
    temporary.replace(path)


def _escape_html(table: pd.DataFrame) -> pd.DataFrame:
    """Escape the strings of a table; Great Expectations writes values into pages unescaped."""
    strings = table[[name for name in table if not pd.api.types.is_numeric_dtype(table[name])]]
    return table.assign(
        **strings.map(lambda value: html.escape(value) if isinstance(value, str) else value)
    )


def _batch_definition(name: str) -> dict[str, Any]:
    """Return the configuration of the batch that consists of a table."""
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
    return {"name": _BATCH, "id": identity, "partitioner": {"regex": rf"{name}\.parquet$"}}


def _data_source(root: Path, names: Iterable[str]) -> dict[str, Any]:
    """Return the data source that reads the tables, as in the configuration of a project."""
    assets = {}
    for name in names:
        batch = _batch_definition(name)
        assets[name] = {"type": "parquet", "batch_definitions": {batch.pop("name"): batch}}
    # A relative path would be relative to the working directory of the user.
    folder = str(root.absolute() / "tables")
    return {"type": "pandas_filesystem", "base_directory": folder, "assets": assets}


def _site(root: Path, backend: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration of Data Docs."""
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {**backend, "base_directory": str(root / _SITE_FOLDER)},
        "site_index_builder": {
            "class_name": "DefaultSiteIndexBuilder",
            "validation_results_limit": _MAX_LISTED_RESULTS,
        },
    }


def _update_project(root: Path, names: Iterable[str]) -> None:
    """Create a project, or add tables to the configuration of an existing project."""
    path = root / "great_expectations.yml"
    try:
        config = yaml.safe_load(path.read_bytes()) if path.is_file() else _create_project(root)
        updated = copy.deepcopy(config)
        sources = updated["fluent_datasources"] = updated.get("fluent_datasources") or {}
        expected = _data_source(root, names)
        source = sources.setdefault(_DATA_SOURCE, expected)
        source["base_directory"] = expected["base_directory"]  # Changes if the project is moved.
        source["assets"] = {**expected["assets"], **source["assets"]}
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {type(error).__name__}: {error}",
            expected="the configuration of a Great Expectations project",
            fix=f"correct it, or remove {path}; the next run creates it",
        ) from error
    if updated != config or not path.is_file():
        write_atomic(path, yaml.safe_dump(updated, sort_keys=False))


def _create_project(root: Path) -> dict[str, Any]:
    """Create the folders of a project; return its configuration, without tables.

    Great Expectations would create the same, but not atomically, and with analytics.
    """
    for folder in ("uncommitted/validations", _SITE_FOLDER):
        (root / folder).mkdir(parents=True, exist_ok=True)
    variables = root / "uncommitted" / "config_variables.yml"
    if not variables.exists():
        write_atomic(variables, "{}\n")
    for file in _PLUGINS.rglob("*.css"):
        write_atomic(root / "plugins" / file.relative_to(_PLUGINS), file.read_bytes())
    config = DataContextConfig(
        store_backend_defaults=FilesystemStoreBackendDefaults(),
        plugins_directory="plugins/",
        config_variables_file_path="uncommitted/config_variables.yml",
        data_docs_sites={_SITE: _site(Path(), {"class_name": "TupleFilesystemStoreBackend"})},
        analytics_enabled=False,
    )
    return {name: value for name, value in config.to_json_dict().items() if value is not None}
