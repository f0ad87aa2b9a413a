"""The figures of an evaluation problem by problem, so that two models can be compared in pairs.

One decision: only figures that are plain means over problems are given, under the names of the statistics; whoever compares
needs to know nothing of how they are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.evaluation.scoring.pass_at_k import pass_at_k


def figures_by_problem(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """`pass@k` and `pass_rate_*` of each problem; the mean of each is the figure among the statistics.

    Args:
        results: what `results.json` of an evaluation holds.

    Returns:
        By figure and problem. pass@k is of the set that is best for k, as the figure itself. Nothing where no program ran.
    """
    figures = {}
    for k, best in results.get("pass_at_k", {}).items():
        chosen = results["sets"][best["set"]]
        figures[f"pass@{k}"] = {
            problem: float(pass_at_k(chosen["num_samples"], passed, int(k)))
            for problem, passed in chosen["passes"].items()
        }
    for label, rates in (results.get("rates") or {}).items():
        figures[f"pass_rate_{label}"] = dict(rates["problem"])
    return figures
