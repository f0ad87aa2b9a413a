"""The model card says what the records say: hand-made records, and every line that a reviewer looks for."""

from __future__ import annotations

from components.core.artifact import Artifact
from components.registry.card import Learnt, model_card

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
    about = {
        "address": f"/store/{name}",
        "recipe": "ab" * 32,
        "digest": "cd" * 32,
        "provenance": provenance or {},
    }
    return Artifact(kind=kind, name=name, statistics=statistics, **about)


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


def _card(**changed: object) -> str:
    about: dict[str, object] = {
        "checkpoint": _artifact("checkpoint", "tiny-mono", TRAINED, CLEAN),
        "evaluations": {"humaneval": HUMANEVAL},
        "dvc_md5": "6998.dir",
        "tracking_uri": "http://me:secret@host:5000",
        "learnt": [
            Learnt(CORPUS, {"MIT": ["flask 3.1"], "BSD-3-Clause": ["networkx 3.7", "numpy 2.4"]})
        ],
    }
    return model_card("tiny-mono", **{**about, **changed})  # type: ignore[arg-type]


def test_the_data_with_what_was_left_out_and_every_contaminated_document() -> None:
    card = _card()
    assert "| mono, Python | 289 | 4.2 MB | 1,518,385 | 567,250 | 5 | 4 |" in card
    assert "| mono | humaneval 2, mtpb 0 |" in card
    unsearched = _artifact("prepared-corpus", "mono", {"languages": {"Python": _PYTHON}})
    assert "| mono | not searched |" in _card(learnt=[Learnt(unsearched, {})])


def test_a_score_stands_with_its_interval_and_one_without_says_so() -> None:
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


def test_limits_say_what_is_wrong_with_the_figures_and_the_code() -> None:
    card = _card()
    assert "Its last stage saw 12,288 tokens, 0.057 for each parameter." in card
    assert "It has seen Python, and nothing is known of other languages." in card
    assert "uncommitted changes, or no git" not in card
    assert "without isolation" not in card
    dirty = _artifact(
        "checkpoint",
        "tiny-mono",
        TRAINED,
        {"attempts": [{"git_dirty": False}, {"git_dirty": True}]},
    )
    bare = HUMANEVAL.replace(statistics={**HUMANEVAL.statistics, "isolated": False})
    card = _card(
        checkpoint=dirty,
        evaluations={"humaneval": bare},
        not_measured={"mtpb": "its file may not be given away"},
    )
    assert "uncommitted changes, or no git" in card
    assert "programs ran without isolation" in card
    assert "**mtpb was not measured**: its file may not be given away." in card


def test_licences_as_recorded_and_no_secret() -> None:
    card = _card()
    assert "| mono | BSD-3-Clause | networkx 3.7, numpy 2.4 |" in card
    assert "| mono | MIT | flask 3.1 |" in card
    assert "secret" not in card
    assert "No license of what it learnt from is recorded." in _card(learnt=[])
    assert "Not recorded" in _card(learnt=[])
