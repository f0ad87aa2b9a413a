"""The dataset card: composition, sources and licenses, rejected documents, and how to reproduce the
corpora."""

from components.data.card.dataset_card import (
    DatasetCardInputs,
    dataset_card,
    dataset_metrics,
    licenses_by_package,
)

__all__ = ["DatasetCardInputs", "dataset_card", "dataset_metrics", "licenses_by_package"]
