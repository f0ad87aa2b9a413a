"""The model card of hand-written records contains every line that a reviewer needs."""

from __future__ import annotations

from markdown_it import MarkdownIt

from components.core.artifact import Artifact
from components.registry.card import TrainingCorpus, model_card

_PYTHON = {
    "documents": 289,
    "bytes": 4_152_923,
    "train_tokens": 1_518_385,
    "held_out_tokens": 567_250,
    "rejected": {"too_long_lines": 3, "contaminated": 2},
    "duplicates": 4,
}


def _artifact(
    kind: str, name: str, statistics: dict[str, object], provenance: dict[str, object] | None = None
) -> Artifact:
    return Artifact(
        kind=kind,
        name=name,
        address=f"/store/{name}",
        recipe_hash="ab" * 32,
        digest="cd" * 32,
        statistics=statistics,
        provenance=provenance or {},
    )


CORPUS = _artifact(
    "prepared-corpus",
    "mono",
    {"languages": {"Python": _PYTHON}, "contaminated": {"humaneval": 2, "mtpb": 0}},
)
TRAINED = {"num_parameters": 214_912, "steps": 12, "tokens": 12_288, "final_loss": 5.0875}
CLEAN = {
    "git_commit": "c02fe5c",
    "attempts": [{"git_dirty": False}],
    "created_at": "2026-11-26T18:28:34+00:00",
}
HUMANEVAL = _artifact(
    "evaluation",
    "humaneval",
    {
        "executed": True,
        "isolated": True,
        "sandbox": "bubblewrap",
        "pass@1": 0.25,
        "pass@1_low": 0.125,
        "pass@1_high": 0.5,
    },
)


def _card(**changes: object) -> str:
    arguments: dict[str, object] = {
        "checkpoint": _artifact("checkpoint", "tiny-mono", TRAINED, CLEAN),
        "evaluations": {"humaneval": HUMANEVAL},
        "dvc_md5": "6998.dir",
        "tracking_uri": "http://me:secret@host:5000",
        "corpora": [
            TrainingCorpus(
                CORPUS, {"MIT": ["flask 3.1"], "BSD-3-Clause": ["networkx 3.7", "numpy 2.4"]}
            )
        ],
    }
    return model_card("tiny-mono", **{**arguments, **changes})  # type: ignore[arg-type]


def test_the_data_tables_have_rejected_and_contaminated_documents() -> None:
    card = _card()
    assert "| mono, Python | 289 | 4.2 MB | 1,518,385 | 567,250 | 5 | 4 |" in card
    assert "| mono | humaneval 2, mtpb 0 |" in card
    unsearched = _artifact("prepared-corpus", "mono", {"languages": {"Python": _PYTHON}})
    assert "| mono | not searched |" in _card(corpora=[TrainingCorpus(unsearched, {})])


def test_scores_have_an_interval_or_a_dash() -> None:
    card = _card(
        evaluations={
            "humaneval": HUMANEVAL,
            "bits": _artifact("evaluation", "bits", {"mono": {"Python": 3.7317}}),
        }
    )
    assert "| pass@1 | 0.25 | 0.125 to 0.5 |" in card
    assert "pass@1_low" not in card
    assert "| mono/Python | 3.732 | - |" in card
    assert "Programs were executed in bubblewrap." in card


def test_limitations_name_weak_metrics_and_uncommitted_code() -> None:
    card = _card()
    assert "The last stage trained on 12,288 tokens, 0.057 per parameter." in card
    assert "Training languages: Python. Other languages were not evaluated." in card
    assert "there were uncommitted changes, or no git" not in card
    assert "without isolation" not in card
    dirty = _artifact(
        "checkpoint",
        "tiny-mono",
        TRAINED,
        {"attempts": [{"git_dirty": False}, {"git_dirty": True}]},
    )
    without_sandbox = HUMANEVAL.replace(statistics={**HUMANEVAL.statistics, "isolated": False})
    card = _card(
        checkpoint=dirty,
        evaluations={"humaneval": without_sandbox},
        not_measured={"mtpb": "its file may not be given away"},
    )
    assert "there were uncommitted changes, or no git" in card
    assert "programs were executed without isolation" in card
    assert "**mtpb was not measured**: its file may not be given away." in card


def test_the_card_has_the_recorded_licenses_and_no_secret() -> None:
    card = _card()
    assert "| mono | BSD-3-Clause | networkx 3.7, numpy 2.4 |" in card
    assert "| mono | MIT | flask 3.1 |" in card
    assert "secret" not in card
    assert "No license of the training data is recorded." in _card(corpora=[])
    assert "Not recorded" in _card(corpora=[])


def test_text_from_records_is_escaped() -> None:
    hostile = "<img src=x> [a](http://b) *c* | \x1b[2J\u202e"
    statistics = {"languages": {hostile: _PYTHON}, "contaminated": {hostile: 1}}
    # `replace` refuses the name; the card does not rely on that.
    corpus = CORPUS.model_copy(update={"name": hostile, "statistics": statistics})
    failed = HUMANEVAL.replace(
        statistics={"executed": False, "reason": hostile, "sandbox": hostile}
    )
    card = _card(
        evaluations={hostile: failed},
        not_measured={hostile: hostile},
        corpora=[TrainingCorpus(corpus, {hostile: [hostile]})],
        tracking_uri='http://host/"\n```\n<img src=x>',
    )
    tokens = MarkdownIt("commonmark").enable("table").parse(card)
    kinds = {child.type for token in tokens for child in token.children or []} | {
        token.type for token in tokens
    }
    assert not kinds & {"link_open", "image", "html_block", "html_inline", "em_open"}
    assert sum(token.type == "fence" for token in tokens) == 1
    assert "\x1b" not in card
    assert "\u202e" not in card
