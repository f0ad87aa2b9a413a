"""Successful pulls, with real archives and real DVC."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from dvc.repo import Repo
from fixtures.archives import build_archives
from fixtures.projects import dvc_status, new_project, pull_fixtures, read_files, visible_files

from components.data.archives.pins import Pins
from components.data.config import DataConfig

LANGUAGES = {name: corpus.languages for name, corpus in DataConfig().corpora.items()}


def _new_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_pull_writes_all_corpora_and_dvc_status_is_clean(project, fixture_archives):
    result = pull_fixtures(project, fixture_archives)
    files = read_files(project / "data")
    assert sorted(files) == [
        "NOTICE",
        "mono/scripts-1.0.jsonl",
        "multi/lowlevel-1.0.jsonl",
        "multi/scripts-1.0.jsonl",
        "multi/services-1.0.jsonl",
        "nl/manual-1.0.jsonl",
        "skipped.jsonl",
        "vocabulary/gpt2.tiktoken",
    ]
    for corpus, languages in LANGUAGES.items():
        lines = [
            line
            for name, text in files.items()
            if name.startswith(f"{corpus}/")
            for line in text.splitlines()
        ]
        records = [json.loads(line) for line in lines]
        assert {record["language"] for record in records} == set(languages)
        assert all(
            list(record) == ["language", "license", "path", "source", "text"] for record in records
        )
        assert len(records) == 120 * len(languages) + (2 if corpus == "multi" else 0)
    assert not result.was_current
    assert dvc_status(project) == {}
    assert visible_files(project) == ["data", "data.dvc"]


def test_pull_lists_skipped_members_and_licenses(project, fixture_archives):
    pull_fixtures(project, fixture_archives)
    skipped = [
        json.loads(line) for line in (project / "data" / "skipped.jsonl").read_text().splitlines()
    ]
    assert [entry["path"] for entry in skipped] == [
        "src/binary.c",
        "src/empty.c",
        "src/latin.c",
        "src/link.c",
    ]
    notice = (project / "data" / "NOTICE").read_text()
    assert all(f"{package.name} 1.0: MIT" in notice for package in fixture_archives.pins.packages)
    assert all(f"{source.name} 1.0: MIT" in notice for source in fixture_archives.pins.vocabulary)


def test_bytes_do_not_depend_on_project_pin_order_or_umask(project, fixture_archives, tmp_path):
    other_project = new_project(tmp_path / "other")
    reversed_pins = Pins(
        packages=fixture_archives.pins.packages[::-1], vocabulary=fixture_archives.pins.vocabulary
    )
    first = pull_fixtures(project, fixture_archives)
    old_umask = os.umask(0o077)
    try:
        second = pull_fixtures(other_project, fixture_archives, pins=reversed_pins)
    finally:
        os.umask(old_umask)
    assert first.dvc_md5 == second.dvc_md5
    assert (project / "data.dvc").read_bytes() == (other_project / "data.dvc").read_bytes()
    assert read_files(project / "data") == read_files(other_project / "data")


def test_second_pull_needs_no_network_and_no_archives(project, fixture_archives, tmp_path):
    first = pull_fixtures(project, fixture_archives)
    shutil.rmtree(tmp_path / "cache")
    repeated = pull_fixtures(project, fixture_archives, archives=None)
    assert repeated.was_current
    assert repeated.dvc_md5 == first.dvc_md5
    assert "up to date" in repeated.summary


def test_fresh_clone_gets_the_committed_bytes(project, fixture_archives, tmp_path):
    first = pull_fixtures(project, fixture_archives)
    clone = new_project(tmp_path / "other")
    shutil.copy(project / "data.dvc", clone)
    assert pull_fixtures(clone, fixture_archives).dvc_md5 == first.dvc_md5
    assert (clone / "data.dvc").read_bytes() == (project / "data.dvc").read_bytes()
    assert dvc_status(clone) == {}


def test_git_ignores_data_but_tracks_data_dvc(fixture_archives, tmp_path):
    project = _new_folder(tmp_path / "checkout")
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    Repo.init(str(project)).close()
    pull_fixtures(project, fixture_archives)
    listed = subprocess.run(
        ["git", "-C", str(project), "status", "--porcelain", "-uall"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "data.dvc" in listed
    assert "data/" not in listed


def test_pull_restores_manually_changed_data(project, fixture_archives):
    pull_fixtures(project, fixture_archives)
    files_before = read_files(project / "data")
    (project / "data" / "nl" / "manual-1.0.jsonl").write_text("{}\n")
    (project / "data" / "nl" / "mine.jsonl").write_text("{}\n")
    assert not pull_fixtures(project, fixture_archives).was_current
    assert read_files(project / "data") == files_before
    assert dvc_status(project) == {}


def test_pull_of_another_preset_updates_data_dvc_and_reports_it(
    project, fixture_archives, tmp_path
):
    tiny = pull_fixtures(project, fixture_archives)
    pins = build_archives(
        _new_folder(tmp_path / "more"), num_documents=60, num_merges=300, presets=("starter",)
    )
    starter = pull_fixtures(
        project, fixture_archives, preset="starter", pins=pins, archives=tmp_path / "more"
    )
    assert starter.previous is not None
    assert (starter.previous.preset, starter.previous.md5) == ("tiny", tiny.dvc_md5)
    assert "data.dvc was updated" in starter.summary
    assert starter.dvc_md5 in (project / "data.dvc").read_text()
    assert "preset: starter" in (project / "data.dvc").read_text()
    assert dvc_status(project) == {}
