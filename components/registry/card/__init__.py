"""The model card of a registered version: data, training, scores, limits, licenses and origin."""

from components.registry.card.model_card import TrainingCorpus, model_card

__all__ = ["TrainingCorpus", "model_card"]
