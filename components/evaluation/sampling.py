"""Completions as text: a checkpoint and its own tokenizer behind one door that the benchmarks draw through.

One decision: the prompt is encoded exactly as it is given, trailing white space included, since stripping it changes scores
(docs/paper.md, section 6). When a completion is useless from some point on is the benchmark's affair: it says so by
`should_stop`, and truncates by its own rules. Not covered: several checkpoints at once, several devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from components.model.generation import generate
from components.model.huggingface import load_checkpoint
from components.tokenizer.encoder import Encoder


class Sampler:
    """Draws completions from the model of a checkpoint folder."""

    def __init__(self, checkpoint: Path) -> None:
        """Load the model and the tokenizer of a folder in Hugging Face's format.

        Raises:
            ArtifactError: the weights or their configuration are missing or damaged.
            DataError: there is no tokenizer of ours.
        """
        self._encoder = Encoder(checkpoint)
        self._model = load_checkpoint(checkpoint).eval()

    def complete(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        should_stop: Callable[[str], bool] | None = None,
    ) -> list[str]:
        """One completion, without its prompt, for each prompt; equal calls give equal completions.

        Args:
            prompts: where one is longer than the model's context less `max_new_tokens`, its beginning is not read.
            seeds: one per prompt, from 0; equal prompts want different seeds.
            max_new_tokens: the most tokens of a completion; it ends before at the end-of-text.
            temperature: above 0, applied before the nucleus.
            top_p: mass of the nucleus, in (0, 1].
            should_stop: given the text drawn so far, whether the rest is of no use. Asked every few tokens, so a
                completion may be longer than the text for which this first held.

        Raises:
            ConfigError: a prompt is empty, or a number is out of its range.
            EvaluationError: the model's logits are not finite.
        """
        decode = self._encoder.decode
        stops = None if should_stop is None else (lambda _, new_tokens: should_stop(decode(new_tokens)))
        completions = generate(
            self._model,
            [self._encoder.encode(prompt) for prompt in prompts],
            seeds=seeds,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            num_ids=self._encoder.num_ids,
            eot_id=self._encoder.eot_id,
            should_stop=stops,
        )
        return [decode(completion) for completion in completions]
