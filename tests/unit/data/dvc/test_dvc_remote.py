"""DVC's default remote, a folder or S3: intact, interrupted, damaged and unreachable."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from fixtures.projects import (
    add_remote,
    dvc_status,
    new_project,
    pull_fixtures,
    read_files,
    visible_files,
)

from components.core.errors import DataError, RemoteError
from components.data.dvc.dvc_objects import load_tree
from components.data.dvc.dvc_remote import PushResult, check_remote, push

_NUM_OBJECTS = 9
"""Eight distinct files below data/ (see test_pull), and their list."""


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "remote") if request.param == "folder" else request.getfixturevalue("s3")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "remote"


@pytest.fixture
def pushed(project, fixture_archives, folder) -> Path:
    """A project whose data/ was pulled and pushed to `folder`."""
    pull_fixtures(project, fixture_archives)
    add_remote(project, str(folder))
    push(project)
    return project


def clone_of(project: Path, folder: Path) -> Path:
    """A clone as git makes it: data.dvc and DVC's configuration."""
    clone = new_project(folder)
    shutil.copy(project / "data.dvc", clone)
    shutil.copy(project / ".dvc/config", clone / ".dvc/config")
    return clone


def objects(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "files/md5").glob("*/*") if len(path.name) in (30, 34))


def object_path(project: Path, folder: Path, path: str) -> Path:
    """Path of the object of a file of data/, in a remote folder or the cache."""
    md5 = _md5(project / path)
    return folder / "files/md5" / md5[:2] / md5[2:]


def _md5(path: Path) -> str:
    done = subprocess.run(["md5sum", str(path)], capture_output=True, text=True, check=True)
    return done.stdout.split()[0]


def overwrite(path: Path, content: bytes) -> None:
    """Damage a file but keep it read-only, so that DVC trusts it."""
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


def test_pushed_data_can_be_pulled_without_archives(project, fixture_archives, url, tmp_path):
    pull_fixtures(project, fixture_archives)
    add_remote(project, url)
    state_before = check_remote(project)
    assert state_before is not None
    assert (state_before.name, state_before.num_objects, len(state_before.missing)) == (
        "backup",
        _NUM_OBJECTS,
        _NUM_OBJECTS,
    )
    assert push(project) == PushResult("backup", url, _NUM_OBJECTS, _NUM_OBJECTS)
    assert push(project).num_sent == 0

    clone = clone_of(project, tmp_path / "clone")
    state = check_remote(clone)
    assert state is not None
    assert (state.url, state.missing) == (url, ())
    pulled = pull_fixtures(clone, fixture_archives, archives=None)
    assert read_files(clone / "data") == read_files(project / "data")
    assert "from the DVC remote backup" in pulled.summary
    assert (clone / "data.dvc").read_bytes() == (project / "data.dvc").read_bytes()
    assert dvc_status(clone) == {}
    assert visible_files(clone) == ["data", "data.dvc"]
    (clone / "data/NOTICE").write_text("files are writable")


def test_state_of_the_remote_has_its_setting_verify(pushed):
    state = check_remote(pushed)
    assert state is not None
    assert state.verify is False
    with Repo(str(pushed)) as repo, repo.config.edit() as config:
        config["remote"]["backup"]["verify"] = True
    state = check_remote(pushed)
    assert state is not None
    assert state.verify is True


def test_dvc_can_pull_pushed_data(pushed, folder, tmp_path):
    clone = clone_of(pushed, tmp_path / "clone")
    with Repo(str(clone)) as repo:
        assert repo.pull()["stats"]["fetched"] == _NUM_OBJECTS
    assert read_files(clone / "data") == read_files(pushed / "data")


def test_pull_without_data_dvc_uses_the_pinned_md5(pushed, fixture_archives, tmp_path):
    clone = clone_of(pushed, tmp_path / "clone")
    (clone / "data.dvc").unlink()
    md5 = (pushed / "data.dvc").read_text().split("md5: ")[1].split()[0]
    pins = fixture_archives.pins.replace(dvc_md5={"tiny": md5})
    pulled = pull_fixtures(clone, fixture_archives, pins=pins, archives=None, origin="remote")
    assert pulled.dvc_md5 == md5
    assert (clone / "data.dvc").read_bytes() == (pushed / "data.dvc").read_bytes()


def test_origin_archives_ignores_the_remote(pushed, fixture_archives, tmp_path):
    clone = clone_of(pushed, tmp_path / "clone")
    pulled = pull_fixtures(clone, fixture_archives, origin="archives")
    assert pulled.origin == "the pinned archives"
    assert read_files(clone / "data") == read_files(pushed / "data")


def test_without_a_remote_push_fails_and_pull_uses_archives(project, fixture_archives):
    with pytest.raises(
        DataError, match=r"has no default DVC remote(.|\n)*dvc remote add --default"
    ):
        pull_fixtures(project, fixture_archives, origin="remote")
    assert visible_files(project) == []
    assert pull_fixtures(project, fixture_archives).origin == "the pinned archives"
    assert check_remote(project) is None
    with pytest.raises(
        DataError, match=r"has no default DVC remote(.|\n)*dvc remote add --default"
    ):
        push(project)


def test_changed_data_is_not_pushed(pushed, folder):
    sent = read_files(folder)
    (pushed / "data/nl/manual-1.0.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="codegen data status"):
        push(pushed)
    assert read_files(folder) == sent


@pytest.mark.parametrize("damage", ["lost", "short"])
def test_lost_object_is_reported_and_sent_again(pushed, folder, fixture_archives, tmp_path, damage):
    intact = read_files(folder)
    broken = object_path(pushed, folder, "data/nl/manual-1.0.jsonl")
    broken.unlink() if damage == "lost" else overwrite(broken, b"{}")
    state = check_remote(pushed)
    assert state is not None
    assert state.missing == ("data/nl/manual-1.0.jsonl",)

    clone = clone_of(pushed, tmp_path / "clone")
    with pytest.raises(RemoteError, match=r"data/nl/manual-1\.0\.jsonl"):
        pull_fixtures(clone, fixture_archives, archives=None, origin="remote")
    assert visible_files(clone) == ["data.dvc"]

    assert push(pushed).num_sent == 1
    assert read_files(folder) == intact
    assert pull_fixtures(clone, fixture_archives, archives=None, origin="remote").dvc_md5


def test_damaged_object_is_rejected(pushed, folder, fixture_archives, tmp_path):
    broken = object_path(pushed, folder, "data/mono/scripts-1.0.jsonl")
    overwrite(broken, broken.read_bytes()[::-1])
    clone = clone_of(pushed, tmp_path / "clone")
    with pytest.raises(RemoteError) as caught:
        pull_fixtures(clone, fixture_archives, archives=None, origin="remote")
    assert "damaged bytes of data/mono/scripts-1.0.jsonl" in caught.value.got
    assert str(broken) in caught.value.fix
    assert visible_files(clone) == ["data.dvc"]

    pulled = pull_fixtures(clone, fixture_archives)
    assert pulled.origin.startswith(
        "the pinned archives, since the DVC remote backup has damaged bytes"
    )
    assert read_files(clone / "data") == read_files(pushed / "data")


def test_damaged_list_of_files_is_rejected(pushed, folder, fixture_archives, tmp_path):
    (names,) = [path for path in objects(folder) if path.name.endswith(".dir")]
    overwrite(names, names.read_bytes().replace(b"NOTICE", b"NOTICF"))
    clone = clone_of(pushed, tmp_path / "clone")
    with pytest.raises(RemoteError, match="damaged bytes of the list of files"):
        pull_fixtures(clone, fixture_archives, archives=None, origin="remote")
    assert visible_files(clone) == ["data.dvc"]


def test_unreachable_remote_raises_remote_error(pushed, fixture_archives, tmp_path):
    """A path below a file gives the errors of a share that is not mounted."""
    (tmp_path / "file").write_text("")
    add_remote(pushed, str(tmp_path / "file" / "remote"), name="away")
    with pytest.raises(RemoteError, match="the DVC remote away failed while pushing data/"):
        push(pushed)
    clone = clone_of(pushed, tmp_path / "clone")
    with pytest.raises(RemoteError, match="the DVC remote away"):
        pull_fixtures(clone, fixture_archives, origin="remote")
    assert (
        "the pinned archives, since the DVC remote away"
        in pull_fixtures(clone, fixture_archives).summary
    )


class EmptyServer(BaseHTTPRequestHandler):
    """A remote without objects."""

    def do_HEAD(self):
        self.send_error(404)

    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        """Keep the output of the tests free of requests."""


def test_unreachable_s3_endpoint_raises_remote_error(project, fixture_archives, monkeypatch):
    pull_fixtures(project, fixture_archives)
    add_remote(project, "s3://team/prefix")
    with Repo(str(project)) as repo, repo.config.edit() as config:
        config["remote"]["backup"] |= {
            "endpointurl": "http://127.0.0.1:1",
            "access_key_id": "x",
            "secret_access_key": "y",
        }
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # Else the client retries for ten seconds.
    with pytest.raises(
        RemoteError, match=r"the DVC remote backup failed while .* Could not connect"
    ):
        push(project)


def test_the_url_of_a_remote_is_shown_without_its_password(project, fixture_archives):
    pull_fixtures(project, fixture_archives)
    with ThreadingHTTPServer(("127.0.0.1", 0), EmptyServer) as server:
        threading.Thread(target=server.serve_forever).start()
        port = server.server_port
        add_remote(project, f"http://ada:lovelace@127.0.0.1:{port}/corpora")
        try:
            state = check_remote(project)
        finally:
            server.shutdown()
    assert state.url == f"http://USER:PASSWORD@127.0.0.1:{port}/corpora"
    assert state.missing


def test_pull_uses_archives_if_the_remote_is_invalid(project, fixture_archives):
    with Repo(str(project)) as repo, repo.config.edit() as config:
        config["core"]["remote"] = "unknown"
    pulled = pull_fixtures(project, fixture_archives)
    assert "the pinned archives" in pulled.origin
    with pytest.raises(RemoteError, match=r"the DVC remote unknown cannot be used"):
        push(project)


def test_damaged_cache_is_not_pushed(project, fixture_archives, folder):
    pull_fixtures(project, fixture_archives)
    add_remote(project, str(folder))
    cached = object_path(project, project / ".dvc/cache", "data/multi/services-1.0.jsonl")
    overwrite(cached, b"?" * cached.stat().st_size)
    with pytest.raises(
        DataError, match=r"damaged bytes of data/multi/services-1\.0\.jsonl(.|\n)*dvc add data"
    ):
        push(project)
    assert not objects(folder)
    with Repo(str(project)) as repo:
        repo.add([str(project / "data")])
    assert push(project).num_sent == _NUM_OBJECTS
    assert all(
        _md5(path) == (path.parent.name + path.name).removesuffix(".dir")
        for path in objects(folder)
    )


_PUSH = """
import sys
from pathlib import Path
from components.data.dvc.dvc_remote import push
push(Path(sys.argv[1]))
"""


def test_push_resumes_after_a_kill(project, fixture_archives, folder):
    pull_fixtures(project, fixture_archives)
    add_remote(project, str(folder))
    for number in range(300):  # Enough files for a kill during the push.
        (project / f"data/nl/more{number:03}.jsonl").write_text(f"{number}\n" * 2_000)
    with Repo(str(project)) as repo:
        repo.add([str(project / "data")])
    with subprocess.Popen(
        [sys.executable, "-c", _PUSH, str(project)], stderr=subprocess.DEVNULL
    ) as process:
        while not objects(folder) and process.poll() is None:
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    sent = objects(folder)
    assert 0 < len(sent) < 300 + _NUM_OBJECTS
    assert not [path for path in sent if path.name.endswith(".dir")], (
        "the list of files is sent last"
    )
    intact = [path for path in sent if _md5(path) == path.parent.name + path.name]
    assert push(project).num_sent == 300 + _NUM_OBJECTS - len(intact)
    assert all(
        _md5(path) == (path.parent.name + path.name).removesuffix(".dir")
        for path in objects(folder)
    )


@pytest.mark.parametrize("path_to_wait_for", ["cache", ".data.building", "data"])
def test_pull_from_the_remote_after_a_kill_gives_the_same_data(
    pushed, fixture_archives, tmp_path, path_to_wait_for
):
    clone = clone_of(pushed, tmp_path / "clone")
    command = [sys.executable, "-c", _PULL, str(clone), str(fixture_archives.folder)]

    def has_started() -> bool:
        return (
            any((clone / ".dvc/cache/files/md5").glob("*/*"))
            if path_to_wait_for == "cache"
            else (clone / path_to_wait_for).exists()
        )

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not has_started() and process.poll() is None:
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    pull_fixtures(clone, fixture_archives, archives=None, origin="remote")
    assert read_files(clone / "data") == read_files(pushed / "data")
    assert (clone / "data.dvc").read_bytes() == (pushed / "data.dvc").read_bytes()
    assert dvc_status(clone) == {}
    assert visible_files(clone) == ["data", "data.dvc"]


_PULL = """
import sys
from pathlib import Path
from components.core.files import read_json
from components.data.archives.pins import Pins
from components.data.archives.pull import pull

project, archives = map(Path, sys.argv[1:])
pins = Pins.parse(read_json(archives / "pins.json"))
pull(project, "tiny", project.parent / "cache", pins=pins, origin="remote")
"""


def test_status_command_prints_changed_files_as_json(pushed, folder):
    def status() -> tuple[int, dict[str, Any], str]:
        command = [
            sys.executable,
            "-m",
            "flows.cli.main",
            "data",
            "status",
            "--json",
            "--exec",
            f"project={pushed}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        return done.returncode, json.loads(done.stdout), done.stderr

    code, document, _ = status()
    md5 = (pushed / "data.dvc").read_text().split("md5: ")[1].split()[0]
    assert (code, document["clean"], document["md5"], document["changed"]) == (0, True, md5, [])
    assert document["uncommitted"] is None, "the project is not under git"
    assert document["remote"] == {
        "name": "backup",
        "url": str(folder),
        "num_objects": _NUM_OBJECTS,
        "missing": [],
        "verify": False,
    }
    (pushed / "data/nl/manual-1.0.jsonl").write_text("{}\n")
    code, document, stderr = status()
    assert (code, document["clean"], document["changed"]) == (
        1,
        False,
        ["data/nl/manual-1.0.jsonl"],
    )
    assert "differs from the version in data.dvc: data/nl/manual-1.0.jsonl" in stderr


@pytest.mark.parametrize("path", ["../evil.py", "/tmp/evil.py", "code/../../evil.py"])
def test_a_list_of_files_that_leaves_data_is_refused(project: Path, path: str) -> None:
    with Repo(str(project)) as repo:
        cache = repo.cache.local
        content = json.dumps([{"md5": "0" * 32, "relpath": path}]).encode()
        md5 = f"{hashlib.md5(content, usedforsecurity=False).hexdigest()}.dir"
        stored = Path(cache.oid_to_path(md5))
        stored.parent.mkdir(parents=True)
        stored.write_bytes(content)
        with pytest.raises(DataError, match=rf"DVC's list of files {md5} cannot be used"):
            load_tree(cache, md5)
