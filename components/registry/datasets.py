"""Corpora as MLflow shows them: one dataset a corpus, with its digest, its DVC md5 and its counts.

Design decision: built from the `Artifact` record alone, so nothing is read or loaded again; the source is the folder.
MLflow keeps 36 characters of a digest: its name carries the first 36 of SHA-256, the profile the whole.
"""

from __future__ import annotations

import json

from mlflow.entities import Dataset, DatasetInput, InputTag

from components.core.artifact import Artifact

CORPUS_KINDS = ("raw-corpus", "prepared-corpus")
DIGEST_CHARACTERS = 36
"""Of a digest that MLflow keeps."""
_CONTEXT_TAG = "mlflow.data.context"


def dataset_input(artifact: Artifact, context: str, dvc_md5: str | None) -> DatasetInput:
    """A corpus as the input of a run.

    Args:
        artifact: of a kind in `CORPUS_KINDS`.
        context: what the run does with it, e.g. "training".
        dvc_md5: of the raw data that it is, or was made from, where that is known.
    """
    profile = {
        "digest": artifact.digest,
        "recipe": artifact.recipe_hash,
        "dvc_md5": dvc_md5,
        "statistics": artifact.statistics,
    }
    dataset = Dataset(
        name=f"{artifact.kind}/{artifact.name}",
        digest=artifact.digest[:DIGEST_CHARACTERS],
        source_type="local",
        source=json.dumps({"uri": artifact.address}),
        profile=json.dumps(profile, sort_keys=True),
    )
    tags = [InputTag(_CONTEXT_TAG, context)]
    if dvc_md5:
        tags.append(InputTag("dvc_md5", dvc_md5))
    return DatasetInput(dataset, tags)
