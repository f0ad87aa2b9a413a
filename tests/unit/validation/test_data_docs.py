"""Data Docs: the pages of every run are there, complete, harmless, and readable without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import pytest
from corpora_on_disk import SMALL, records, write_raw
from pydantic import JsonValue

from components.core.errors import ValidationFailed
from components.validation.raw import validate_raw

Quarantined = Mapping[str, JsonValue]


class Links(HTMLParser):
    """The targets of a page's links."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value for name, value in attrs if tag == "a" and name == "href" and value]


def validate(folder: Path, artifact: str, *, good: bool = True, quarantined: Sequence[Quarantined] = ()) -> None:
    content = records()
    if not good:
        content[1].update(language="<script>alert(1)</script>", path="a & b.txt")
    corpora = {"nl": write_raw(folder / artifact / "data", content)}
    validate_raw(folder / artifact / "out", corpora=corpora, config=SMALL, docs=folder / "docs", quarantined=quarantined)


def test_every_run_is_listed_and_stays(tmp_path: Path) -> None:
    with pytest.raises(ValidationFailed) as error:
        validate(tmp_path, "bad", good=False)
    validate(tmp_path, "good")
    docs = tmp_path / "docs"
    targets = Links(docs / "index.html").targets
    assert len(targets) == 4
    assert all((docs / target).is_file() for target in targets)
    page = Path(error.value.do.removeprefix("open ").split(" to see")[0])
    assert page.relative_to(docs).as_posix() in targets
    listing = (docs / "index.html").read_text(encoding="utf-8")
    assert listing.count("✘") == 1
    assert "1 of 14 rules broken" in listing
    for run in docs.glob("raw-corpora-*"):
        assert {target.split("/", 1)[1] for target in targets if target.startswith(f"{run.name}/")} < set(
            Links(run / "index.html").targets
        )
    assert len(list(docs.glob("raw-corpora-*"))) == 2


def test_pages_show_the_failure_and_run_nothing_that_a_corpus_says(tmp_path: Path) -> None:
    with pytest.raises(ValidationFailed, match=re.escape("english 1.0/a & b.txt (language = '<script>alert(1)</script>')")):
        validate(tmp_path, "bad", good=False)
    text = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "docs").rglob("*.html"))
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert(1)" not in text
    assert "a &amp; b.txt" in text


def test_quarantined_records_have_a_page_that_every_list_links_to(tmp_path: Path) -> None:
    records: list[Quarantined] = [
        {"file": "<a>.jsonl", "offset": 12, "reason": "not UTF-8", "excerpt": "<script>alert(2)</script>\n\x1b\u202e\x00 é"},
        {"file": "b.jsonl", "offset": 0, "reason": "not JSON", "excerpt": "x" * 5000},
        *({"file": "c.jsonl", "offset": n, "reason": "not JSON", "excerpt": "{"} for n in range(1000)),
    ]
    validate(tmp_path, "quarantine", quarantined=records)
    docs = tmp_path / "docs"
    link = next(target for target in Links(docs / "index.html").targets if target.endswith("/quarantine.html"))
    assert "quarantine.html" in Links((docs / link).parent / "index.html").targets
    assert "records that were set aside</a>: 1,002" in (docs / "index.html").read_text(encoding="utf-8")
    text = (docs / link).read_text(encoding="utf-8")
    assert '<h2 id="record-1">&lt;a&gt;.jsonl, byte 12</h2>\n<p>not UTF-8</p>' in text
    assert "<pre>&lt;script&gt;alert(2)&lt;/script&gt;\n\\u{1b}\\u{202e}\\u{0} é</pre>" in text
    assert f"<pre>{'x' * 2000}</pre>" in text
    assert "<li>not JSON: 1,001</li>\n<li>not UTF-8: 1</li>" in text
    assert "<p>and 2 more</p>" in text
    assert "<script" not in text
    assert (tmp_path / "quarantine" / "out" / "observed" / "data-docs" / "quarantine.html").is_file()


def test_a_run_without_quarantined_records_links_to_none(tmp_path: Path) -> None:
    validate(tmp_path, "good")
    assert not list((tmp_path / "docs").rglob("quarantine.html"))
    assert "set aside" not in (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")


def test_runs_of_an_earlier_release_stay_in_the_list(tmp_path: Path) -> None:
    old = tmp_path / "docs" / "raw-corpora-20250101T000000Z"
    old.mkdir(parents=True)
    page = {"name": "a", "title": "an old page", "num_rules": 2, "num_broken": 0, "path": "validations/a.html"}
    (old / "run.json").write_text(
        json.dumps({"what": "raw corpora", "started": "2025-01-01T00:00:00+00:00", "pages": [page]})
    )
    validate(tmp_path, "good")
    assert "an old page</a>: all 2 rules hold" in (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")


def test_pages_report_no_visit_and_mark_status_without_a_network(tmp_path: Path) -> None:
    validate(tmp_path, "good")
    for page in (tmp_path / "docs").rglob("raw-corpora-*/**/*.html"):
        text = page.read_text(encoding="utf-8")
        assert "great-expectations-web-assets" not in text
        assert r'i.fa-check-circle::before { content: "\2714"' in text


def test_the_artifact_has_a_copy_of_the_pages(tmp_path: Path) -> None:
    validate(tmp_path, "good")
    copy = tmp_path / "good" / "out" / "observed" / "data-docs"
    published = next((tmp_path / "docs").glob("raw-corpora-*"))
    names = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert names | {"run.json"} == {
        path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file()
    }
    assert sum(path.stat().st_size for path in copy.rglob("*") if path.is_file()) < 2_000_000


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / "docs" / ".partial" / "validations"
    left.mkdir(parents=True)
    (left / "half.html").write_text("<html")
    validate(tmp_path, "good")
    assert not (tmp_path / "docs" / ".partial").exists()
    assert not list((tmp_path / "docs").rglob("half.html"))


def test_runs_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda number: validate(tmp_path, f"run{number}"), range(3)))
    runs = sorted((tmp_path / "docs").glob("raw-corpora-*"))
    assert len(runs) == 3
    assert all(len(json.loads((run / "run.json").read_text())["pages"]) == 2 for run in runs)
    assert len(Links(tmp_path / "docs" / "index.html").targets) == 6


def test_results_are_the_same_bytes_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        validate(tmp_path, name)
    one, two = ((tmp_path / name / "out" / "results.json").read_bytes() for name in ("one", "two"))
    assert one == two
