"""What an artifact is filtered by, in words: the same tags on a run, a logged model and a registered version.

Design decision: they follow from the artifact's record alone, so a checkpoint that is reused, or was made by an earlier
version of this project, carries the same ones. Not covered: what only a flow knows, the recipe's family and the benchmark.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from components.core.artifact import Artifact

_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def artifact_tags(artifact: Artifact) -> dict[str, str]:
    """Of a checkpoint its `stage`, `size` and `corpus`; of a prepared corpus its `corpus`.

    A corpus is called by its version, `mono-6600f0dd1cf2`, and a stage by the name of the corpus that it learnt from.
    """
    if artifact.kind == "prepared-corpus":
        return {"corpus": f"{artifact.name}-{artifact.recipe_hash[:12]}"}
    if artifact.kind != "checkpoint":
        return {}
    labels = {}
    if isinstance(num := artifact.statistics.get("num_parameters"), int):
        labels["size"] = size_name(num)
    if corpus := next((one for one in artifact.parents if one.role == "corpus"), None):
        labels |= {"stage": corpus.name, "corpus": PurePosixPath(corpus.address).name}
    return labels


def git_tags(artifact: Artifact) -> dict[str, str]:
    """`git_commit` and `git_dirty` of the code that made an artifact; a run that merely reuses it has its own."""
    dirty = {True: "true", False: "false", None: "unknown"}[is_dirty(artifact)]
    return {"git_commit": str(artifact.provenance.get("git_commit", "unknown")), "git_dirty": dirty}


def is_dirty(artifact: Artifact) -> bool | None:
    """Whether any attempt at an artifact ran from uncommitted code; none where one of them cannot tell."""
    attempts = artifact.provenance.get("attempts")
    states = (
        [one.get("git_dirty") for one in attempts if isinstance(one, dict)]
        if isinstance(attempts, list)
        else []
    )
    if True in states:
        return True
    return None if None in states or not states else False


def size_name(num_parameters: int) -> str:
    """`215K`, `356M`, `2.78B`: three digits."""
    for value, unit in _UNITS:
        if num_parameters >= value:
            return f"{num_parameters / value:.3g}{unit}"
    return str(num_parameters)
