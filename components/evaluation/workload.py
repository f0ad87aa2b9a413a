"""The work of evaluating a checkpoint, in samples and tokens: counted from the settings alone.

Neither a model nor MTPB's file is read. Completions count with their most tokens, although the
rules of truncation end many of them early: the work is an upper bound. Not counted: the execution
of the programs, which takes place while sampling continues, and HumanEval's canonical solutions in
bits per byte (less than a hundredth of the held-out text of the paper's recipes).
"""

from __future__ import annotations

from typing import NamedTuple

from components.evaluation.config import EvaluationConfig, HumanEvalConfig, MtpbConfig

_BYTES_PER_TOKEN = 3.36
"""Of Python with all merges (measured, docs/figures.md)."""
_HUMANEVAL_PROBLEMS = 164
_HUMANEVAL_PROMPT_BYTES = 451
"""Mean over the 164 prompts (measured)."""
_MTPB_PREFIX_BYTES = 41
"""`mtpb.PREFIX`."""
_MTPB_PROMPT_BYTES = 78
"""Mean over the 514 turns with the values of the first case, as a comment line (measured)."""


class _Shape(NamedTuple):
    """MTPB problems of equal shape."""

    num_problems: int
    num_turns: int
    max_new_tokens: int


_MTPB_SHAPES = tuple(
    _Shape(*shape)
    for shape in (
        *((11, 3, 128), (47, 4, 128), (19, 5, 128), (6, 6, 128), (3, 7, 128), (1, 8, 128)),
        *((1, 9, 128), (5, 3, 256), (9, 4, 256), (8, 5, 256), (2, 6, 256), (1, 7, 256)),
        *((1, 8, 256), (1, 6, 512)),
    )
)
"""Counted in MTPB's file: 115 problems, 514 turns (docs/paper.md, section 5)."""
_MTPB_PROBLEMS = sum(shape.num_problems for shape in _MTPB_SHAPES)


class SamplingWork(NamedTuple):
    """Samples of a benchmark for a checkpoint."""

    name: str
    num_samples: int
    num_new_tokens: int
    """Most new tokens of all samples together."""
    num_prompt_tokens: int
    """Prompt tokens that are computed. A prompt is computed once for all samples of a problem, a
    later turn for each sample, because it contains the sample's own completions."""
    num_attended_tokens: int
    """Sum over the new tokens of the tokens before them."""
    max_tokens: int
    """Of a prompt and its completion together."""

    @property
    def benchmark(self) -> str:
        """The name of the benchmark."""
        return self.name.split()[0]


def sampling_work(config: EvaluationConfig) -> list[SamplingWork]:
    """Return the samples that every checkpoint generates, by benchmark and set."""
    work = [_humaneval_work(config.humaneval), _mtpb_work(config.mtpb)]
    if config.mtpb.single_turn:
        work.append(_single_turn_work(config.mtpb))
    return work


def num_held_out_tokens(config: EvaluationConfig, num_splits: int, context_length: int) -> int:
    """Return the most held-out tokens that are scored for bits per byte.

    Args:
        config: the settings.
        num_splits: held-out splits, one per language of each corpus.
        context_length: tokens of a sequence.
    """
    return num_splits * config.held_out_max_sequences * context_length


def _humaneval_work(config: HumanEvalConfig) -> SamplingWork:
    num_sets = len(config.temperatures)
    prompt = _num_tokens(_HUMANEVAL_PROMPT_BYTES)
    num_samples = _HUMANEVAL_PROBLEMS * config.num_samples * num_sets
    return SamplingWork(
        name="humaneval",
        num_samples=num_samples,
        num_new_tokens=num_samples * config.max_new_tokens,
        num_prompt_tokens=_HUMANEVAL_PROBLEMS * num_sets * prompt,
        num_attended_tokens=num_samples * _num_attended(prompt, config.max_new_tokens),
        max_tokens=prompt + config.max_new_tokens,
    )


def _mtpb_work(config: MtpbConfig) -> SamplingWork:
    """Several turns: turn t follows t prompts and t - 1 completions."""
    new_tokens = prompt_tokens = attended = 0.0
    max_tokens = 0
    for shape in _MTPB_SHAPES:
        completion = min(shape.max_new_tokens, config.max_new_tokens)
        num_cases = shape.num_problems * len(config.cases)
        for turn in range(1, shape.num_turns + 1):
            history = _num_tokens(_MTPB_PREFIX_BYTES + turn * _MTPB_PROMPT_BYTES)
            history += (turn - 1) * completion
            num_histories = 1 if turn == 1 else config.num_samples
            new_tokens += num_cases * config.num_samples * completion
            prompt_tokens += num_cases * num_histories * history
            attended += num_cases * config.num_samples * _num_attended(history, completion)
            max_tokens = max(max_tokens, history + completion)
    return _selected(config, "mtpb multi", new_tokens, prompt_tokens, attended, max_tokens)


def _single_turn_work(config: MtpbConfig) -> SamplingWork:
    """A single turn: all prompts, and a completion as long as those of all turns."""
    new_tokens = prompt_tokens = attended = 0.0
    max_tokens = 0
    for shape in _MTPB_SHAPES:
        completion = min(shape.max_new_tokens * shape.num_turns, 2 * config.max_new_tokens)
        num_cases = shape.num_problems * len(config.cases)
        prompt = _num_tokens(_MTPB_PREFIX_BYTES + shape.num_turns * _MTPB_PROMPT_BYTES)
        new_tokens += num_cases * config.num_samples * completion
        prompt_tokens += num_cases * prompt
        attended += num_cases * config.num_samples * _num_attended(prompt, completion)
        max_tokens = max(max_tokens, prompt + completion)
    return _selected(config, "mtpb single", new_tokens, prompt_tokens, attended, max_tokens)


def _selected(
    config: MtpbConfig,
    name: str,
    new_tokens: float,
    prompt_tokens: float,
    attended: float,
    max_tokens: int,
) -> SamplingWork:
    """Return the work of the selected problems, which count like the mean of all."""
    ids = config.problem_ids
    num_problems = _MTPB_PROBLEMS if ids is None else len(ids)
    share = num_problems / _MTPB_PROBLEMS
    return SamplingWork(
        name=name,
        num_samples=num_problems * len(config.cases) * config.num_samples,
        num_new_tokens=round(share * new_tokens),
        num_prompt_tokens=round(share * prompt_tokens),
        num_attended_tokens=round(share * attended),
        max_tokens=max_tokens,
    )


def _num_attended(prompt: int, completion: int) -> int:
    """Sum over the tokens of a completion of the tokens before them."""
    return completion * prompt + completion * (completion - 1) // 2


def _num_tokens(num_bytes: int) -> int:
    return round(num_bytes / _BYTES_PER_TOKEN)
