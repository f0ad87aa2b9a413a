"""The pages of every run are kept, complete, safe, and readable without a network."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import pytest
from corpus_files_on_disk import SMALL, page_section, page_table, records, write_raw
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
        gx_root=folder / "gx",
        quarantined=quarantined,
    )


def run_folders(folder: Path) -> list[Path]:
    return sorted((folder / "gx" / "runs").glob("raw-corpora-*"))


def test_every_run_is_listed_and_kept(tmp_path: Path) -> None:
    with pytest.raises(ValidationFailedError) as error:
        validate(tmp_path, "bad", is_valid=False)
    validate(tmp_path, "good")
    index = tmp_path / "gx" / "index.html"
    targets = [target for target in Links(index).targets if target.startswith("runs/")]
    assert len(targets) == 4
    pages = [(index.parent / target.partition("#")[0]) for target in targets]
    page = Path(error.value.fix.removeprefix("open ").split(" for more")[0])
    assert sorted(set(pages)) == [run / "index.html" for run in run_folders(tmp_path)]
    assert page in pages
    for target, path in zip(targets, pages, strict=True):
        assert f'<section id="{target.partition("#")[2]}">' in path.read_text(encoding="utf-8")
    listing = index.read_text(encoding="utf-8")
    assert listing.count("✘") == 1
    assert "1 of 14 rules broken" in listing


def test_every_page_links_to_the_pages_of_great_expectations(tmp_path: Path) -> None:
    validate(tmp_path, "good")
    (run,) = run_folders(tmp_path)
    targets = [target for target in Links(run / "index.html").targets if "validations" in target]
    pages = [(run / target).resolve() for target in targets]
    assert [page.relative_to(tmp_path).parts[5] for page in pages] == [
        "raw-documents-nl",
        "raw-languages-nl",
    ]
    for page in pages:
        assert "Expectation Validation Result" in page.read_text(encoding="utf-8")
    site = tmp_path / "gx" / "uncommitted" / "data_docs" / "local_site"
    assert "../../uncommitted" not in (tmp_path / "gx" / "index.html").read_text(encoding="utf-8")
    assert (site / "index.html").is_file()


def test_pages_show_the_failure_and_escape_the_content_of_a_corpus(tmp_path: Path) -> None:
    with pytest.raises(
        ValidationFailedError,
        match=re.escape("english 1.0/a & b.txt (language = '<script>alert(1)</script>')"),
    ):
        validate(tmp_path, "bad", is_valid=False)
    text = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "gx").rglob("*.html"))
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
    index = tmp_path / "gx" / "index.html"
    (run,) = run_folders(tmp_path)
    assert f"runs/{run.name}/quarantine.html" in Links(index).targets
    assert "quarantined records</a>: 1,102" in index.read_text(encoding="utf-8")
    targets = Links(run / "index.html").targets
    assert targets.count("quarantine.html") == 1
    assert targets.count("quarantine.html#nl") == 2
    page = (run / "quarantine.html").read_text(encoding="utf-8")
    assert '<h2 id="nl">nl: 1,102</h2>' in page


def test_quarantined_records_are_counted_by_kind_and_shown_as_text(tmp_path: Path) -> None:
    validate(
        tmp_path, "quarantine", quarantined={"nl": QUARANTINED, "mono": QuarantineSummary({}, [])}
    )
    text = (run_folders(tmp_path)[0] / "quarantine.html").read_text(encoding="utf-8")
    assert "<li>not JSON: 1,101, 100 of them below</li>\n<li>not UTF-8: 1</li>" in text
    assert "<h3>&lt;a&gt;.jsonl, offset 12</h3>\n<p>not UTF-8: at byte 3</p>" in text
    assert "<pre>&lt;script&gt;alert(2)&lt;/script&gt;\n\u241b\ufffd\u2400 é</pre>" in text
    assert f"<pre>{'x' * 2000}</pre>" in text
    assert text.count("<h3>") == 101
    assert "<script" not in text
    assert "mono" not in text


def test_every_page_has_its_suite_with_digest_and_its_table(tmp_path: Path) -> None:
    copy_suites(tmp_path / "rules")
    validate(tmp_path, "custom", config=SMALL.replace(suites=str(tmp_path / "rules")))
    listing = (tmp_path / "gx" / "index.html").read_text(encoding="utf-8")
    for name in ("raw-documents", "raw-languages"):
        path = tmp_path / "rules" / f"{name}.json"
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (run,) = run_folders(tmp_path)
        text = page_section(run / "index.html", f"{name}-nl")
        assert f"Suite: <code>{path}</code>, SHA-256 <code>{digest}</code>" in text
        assert f'title="{path}, SHA-256 {digest}">{name}.json {digest[:12]}</span>' in listing
        table = page_table(text)
        assert (table["language"], table["num_documents"]) == (["English"], ["4"])
        assert list(table) == list(SUITE_TABLES[name].columns)


def test_a_run_without_quarantined_records_has_no_link_to_them(tmp_path: Path) -> None:
    validate(tmp_path, "good")
    assert not list((tmp_path / "gx").rglob("quarantine.html"))
    assert "quarantined records" not in (tmp_path / "gx" / "index.html").read_text(encoding="utf-8")


def test_partial_output_of_an_interrupted_run_is_removed(tmp_path: Path) -> None:
    partial = tmp_path / "gx" / ".partial"
    partial.mkdir(parents=True)
    (partial / "half.html").write_text("<html")
    validate(tmp_path, "good")
    assert not (tmp_path / "gx" / ".partial").exists()
    assert not list((tmp_path / "gx").rglob("half.html"))


def test_concurrent_runs_do_not_mix(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda number: validate(tmp_path, f"run{number}"), range(3)))
    runs = run_folders(tmp_path)
    assert len(runs) == 3
    assert all(len(json.loads((run / "run.json").read_text())["pages"]) == 2 for run in runs)
    targets = Links(tmp_path / "gx" / "index.html").targets
    assert len([target for target in targets if target.startswith("runs/")]) == 6


def test_results_are_deterministic(tmp_path: Path) -> None:
    results = []
    for name in ("first", "second"):
        validate(tmp_path, name)
        results.append((tmp_path / name / "out" / "results.json").read_bytes())
    assert results[0] == results[1]
