"""Data Docs: the pages of every run are kept, complete, safe, and readable without a network."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import pytest
from corpus_files_on_disk import SMALL, page_table, records, write_raw
from pydantic import JsonValue

from components.core.errors import ValidationFailedError
from components.data.config import DataConfig
from components.validation.config import ValidationConfig
from components.validation.profile import QuarantineSummary
from components.validation.raw import validate_raw
from components.validation.suite_files import SUITE_TABLES, copy_suites


class Links(HTMLParser):
    """The targets of a page's links."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value for name, value in attrs if tag == "a" and name == "href" and value]


def validate(
    folder: Path,
    artifact: str,
    *,
    is_valid: bool = True,
    quarantined: Mapping[str, QuarantineSummary] | None = None,
    config: ValidationConfig = SMALL,
) -> None:
    content = records()
    if not is_valid:
        content[1].update(language="<script>alert(1)</script>", path="a & b.txt")
    corpora = {"nl": write_raw(folder / artifact / "data", content)}
    validate_raw(
        folder / artifact / "out",
        corpora=corpora,
        config=config,
        data=DataConfig(),
        docs=folder / "docs",
        quarantined=quarantined,
    )


def test_every_run_is_listed_and_kept(tmp_path: Path) -> None:
    with pytest.raises(ValidationFailedError) as error:
        validate(tmp_path, "bad", is_valid=False)
    validate(tmp_path, "good")
    docs = tmp_path / "docs"
    targets = Links(docs / "index.html").targets
    assert len(targets) == 4
    assert all((docs / target).is_file() for target in targets)
    page = Path(error.value.fix.removeprefix("open ").split(" for more")[0])
    assert page.relative_to(docs).as_posix() in targets
    listing = (docs / "index.html").read_text(encoding="utf-8")
    assert listing.count("✘") == 1
    assert "1 of 14 rules broken" in listing
    for run in docs.glob("raw-corpora-*"):
        assert {
            target.split("/", 1)[1] for target in targets if target.startswith(f"{run.name}/")
        } < set(Links(run / "index.html").targets)
    assert len(list(docs.glob("raw-corpora-*"))) == 2


def test_pages_show_the_failure_and_escape_the_content_of_a_corpus(tmp_path: Path) -> None:
    with pytest.raises(
        ValidationFailedError,
        match=re.escape("english 1.0/a & b.txt (language = '<script>alert(1)</script>')"),
    ):
        validate(tmp_path, "bad", is_valid=False)
    text = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "docs").rglob("*.html"))
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert(1)" not in text
    assert "a &amp; b.txt" in text


def bad_record(
    file: str, offset: int, kind: str, details: str, excerpt: str
) -> dict[str, JsonValue]:
    return {
        "file": file,
        "offset": offset,
        "kind": kind,
        "reason": f"{kind}{details}",
        "excerpt": excerpt,
    }


QUARANTINED = QuarantineSummary(
    {"not JSON": 1101, "not UTF-8": 1},
    [
        bad_record(
            "<a>.jsonl",
            12,
            "not UTF-8",
            ": at byte 3",
            "<script>alert(2)</script>\n\x1b\u202e\x00 é",
        ),
        bad_record("b.jsonl", 0, "not JSON", "", "x" * 5000),
        *(
            bad_record("c.jsonl", number, "not JSON", f": at character {number}", "{")
            for number in range(99)
        ),
    ],
)


def test_the_lists_and_the_pages_of_a_corpus_link_to_its_quarantined_records(
    tmp_path: Path,
) -> None:
    validate(
        tmp_path, "quarantine", quarantined={"nl": QUARANTINED, "mono": QuarantineSummary({}, [])}
    )
    docs = tmp_path / "docs"
    link = next(
        target
        for target in Links(docs / "index.html").targets
        if target.endswith("/quarantine.html")
    )
    run = (docs / link).parent
    assert "quarantine.html" in Links(run / "index.html").targets
    assert "quarantined records</a>: 1,102" in (docs / "index.html").read_text(encoding="utf-8")
    pages = sorted(run.glob("validations/**/*.html"))
    assert len(pages) == 2
    for page in pages:
        (target,) = (url for url in Links(page).targets if "quarantine.html" in url)
        path, anchor = target.split("#")
        assert (page.parent / path).resolve() == docs / link
        assert f'<h2 id="{anchor}">nl: 1,102</h2>' in (docs / link).read_text(encoding="utf-8")


def test_quarantined_records_are_counted_by_kind_and_shown_as_text(tmp_path: Path) -> None:
    validate(
        tmp_path, "quarantine", quarantined={"nl": QUARANTINED, "mono": QuarantineSummary({}, [])}
    )
    page = tmp_path / "quarantine" / "out" / "observed" / "data-docs" / "quarantine.html"
    text = page.read_text(encoding="utf-8")
    assert "<li>not JSON: 1,101, 100 of them below</li>\n<li>not UTF-8: 1</li>" in text
    assert "<h3>&lt;a&gt;.jsonl, offset 12</h3>\n<p>not UTF-8: at byte 3</p>" in text
    assert "<pre>&lt;script&gt;alert(2)&lt;/script&gt;\n\\u{1b}\\u{202e}\\u{0} é</pre>" in text
    assert f"<pre>{'x' * 2000}</pre>" in text
    assert text.count("<h3>") == 101
    assert "<script" not in text
    assert "mono" not in text


def test_every_page_has_its_suite_with_digest_and_its_table(tmp_path: Path) -> None:
    copy_suites(tmp_path / "rules")
    validate(tmp_path, "custom", config=SMALL.replace(suites=str(tmp_path / "rules")))
    listing = (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")
    for name in ("raw-documents", "raw-languages"):
        path = tmp_path / "rules" / f"{name}.json"
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (page,) = (tmp_path / "docs").glob(f"raw-corpora-*/validations/{name}-nl/**/*.html")
        text = page.read_text(encoding="utf-8")
        assert f"Suite: <code>{path}</code>, SHA-256 <code>{digest}</code>" in text
        assert text.index("Suite: ") < text.index("Expectation Validation Result")
        assert f'title="{path}, SHA-256 {digest}">{name}.json {digest[:12]}</small>' in listing
        table = page_table(text)
        assert (table[""], table["num_documents"]) == (["English"], ["4"])
        assert {*table, "language"} - {""} == set(SUITE_TABLES[name].columns)


def test_a_run_without_quarantined_records_has_no_link_to_them(tmp_path: Path) -> None:
    validate(tmp_path, "good")
    assert not list((tmp_path / "docs").rglob("quarantine.html"))
    assert "quarantined records" not in (tmp_path / "docs" / "index.html").read_text(
        encoding="utf-8"
    )


def test_runs_of_an_earlier_release_are_still_listed(tmp_path: Path) -> None:
    old_run = tmp_path / "docs" / "raw-corpora-20250101T000000Z"
    old_run.mkdir(parents=True)
    page = {
        "name": "a",
        "title": "an old page",
        "num_rules": 2,
        "num_broken": 0,
        "path": "validations/a.html",
    }
    (old_run / "run.json").write_text(
        json.dumps({"what": "raw corpora", "started": "2025-01-01T00:00:00+00:00", "pages": [page]})
    )
    validate(tmp_path, "good")
    assert "an old page</a>: all 2 rules hold" in (tmp_path / "docs" / "index.html").read_text(
        encoding="utf-8"
    )


def test_pages_report_no_visits_and_show_the_status_without_a_network(tmp_path: Path) -> None:
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


def test_partial_output_of_an_interrupted_run_is_removed(tmp_path: Path) -> None:
    partial = tmp_path / "docs" / ".partial" / "validations"
    partial.mkdir(parents=True)
    (partial / "half.html").write_text("<html")
    validate(tmp_path, "good")
    assert not (tmp_path / "docs" / ".partial").exists()
    assert not list((tmp_path / "docs").rglob("half.html"))


def test_concurrent_runs_do_not_mix(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda number: validate(tmp_path, f"run{number}"), range(3)))
    runs = sorted((tmp_path / "docs").glob("raw-corpora-*"))
    assert len(runs) == 3
    assert all(len(json.loads((run / "run.json").read_text())["pages"]) == 2 for run in runs)
    assert len(Links(tmp_path / "docs" / "index.html").targets) == 6


def test_results_are_deterministic(tmp_path: Path) -> None:
    results = []
    for name in ("first", "second"):
        validate(tmp_path, name)
        results.append((tmp_path / name / "out" / "results.json").read_bytes())
    assert results[0] == results[1]
