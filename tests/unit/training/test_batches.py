"""The sequences that each rank reads."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from fixtures.training import MODEL, STAGE, write_corpus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.core.errors import ConfigError
from components.dataset.config import StreamingCacheConfig
from components.dataset.prefetch import Prefetcher
from components.training.batches import Batches, open_split
from components.training.config import TrainingExecution
from components.training.run_file import ArtifactInput, StageRun

CONTEXT = 8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """A corpus of 10 sequences; all tokens of sequence i are i."""
    return stage_run(corpus(tmp_path_factory.mktemp("corpus"), num_sequences=10))


def corpus(folder: Path, num_sequences: int) -> Path:
    tokens = np.tile(np.arange(num_sequences)[:, None], CONTEXT)
    return write_corpus(folder, {"train": tokens}, num_ids=300)


def stage_run(
    folder: Path,
    sequences_per_step: int = 12,
    context_length: int = CONTEXT,
    padded_vocab_size: int = 320,
) -> StageRun:
    return StageRun(
        stage="nl",
        config=STAGE.replace(global_batch_tokens=sequences_per_step * CONTEXT),
        model=MODEL.replace(context_length=context_length, padded_vocab_size=padded_vocab_size),
        seed=7,
        data=ArtifactInput(folder=str(folder), digest="corpus"),
        tokenizer=ArtifactInput(folder=str(folder), digest="tokenizer"),
    )


@given(st.sampled_from([(1, 1), (1, 4), (2, 3), (3, 1), (4, 3), (12, 1)]), st.integers(1, 4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_batch_is_the_same_for_every_number_of_ranks_and_micro_batch(
    run: StageRun, layout: tuple[int, int], step: int
) -> None:
    full_batch = Batches.for_rank(run, TrainingExecution(micro_batch=12), rank=0).read_step(step)[0]
    world_size, micro_batch = layout
    rows: list[list[list[int]]] = []
    for rank in range(world_size):
        batches = Batches.for_rank(
            run, TrainingExecution(world_size=world_size, micro_batch=micro_batch), rank
        )
        micro_batches = batches.read_step(step)
        assert all(tokens.shape == (micro_batch, CONTEXT) for tokens in micro_batches)
        rows.append([row for tokens in micro_batches for row in tokens.tolist()])
        sequences = []
        for index in range(len(micro_batches)):
            sequences += batches.micro_batch_sequences(step, rank, index)
        assert [row[0] for row in rows[-1]] == sequences
    interleaved = [row for step_rows in zip(*rows, strict=True) for row in step_rows]
    assert interleaved == full_batch.tolist()


@settings(deadline=None, max_examples=12)
@given(
    num_sequences=st.integers(1, 30),
    steps_done=st.integers(0, 20),
    cache_sequences=st.none() | st.integers(1, 40),
    order=st.permutations([1, 2, 4]),
)
def test_global_batches_are_equal_for_1_2_and_4_ranks_resumed_at_any_step_mapped_or_streamed(
    tmp_path_factory: pytest.TempPathFactory,
    num_sequences: int,
    steps_done: int,
    cache_sequences: int | None,
    order: list[int],
) -> None:
    """Each rank reads from step `steps_done` + 1, like the trainer."""
    folder = corpus(tmp_path_factory.mktemp("ranks"), num_sequences)
    single_rank = Batches.for_rank(stage_run(folder, 4), TrainingExecution(micro_batch=4), rank=0)
    steps = range(steps_done + 1, steps_done + 6)
    uninterrupted = [single_rank.read_step(step)[0].tolist() for step in range(1, steps.stop)]
    expected = uninterrupted[steps_done:]
    uri, streaming = str(folder), None
    if cache_sequences is not None:
        uri = f"memory://{folder.name}"
        fs, root = fsspec.url_to_fs(uri)
        fs.put(f"{folder}/", f"{root}/", recursive=True)
        size_bytes = cache_sequences * CONTEXT * 2
        streaming = StreamingCacheConfig(
            cache_folder=str(folder / "cache"), cache_bytes=size_bytes, range_bytes=1
        )
    for world_size in order:
        execution = TrainingExecution(world_size=world_size, micro_batch=1, streaming=streaming)
        rows: list[list[list[list[int]]]] = []
        for rank in range(world_size):
            run = stage_run(folder, 4)
            run = run.model_copy(update={"data": run.data.replace(folder=uri)})
            with Prefetcher(Batches.for_rank(run, execution, rank).read_step, steps) as batches:
                rows.append([torch.cat(step_batches).tolist() for step_batches in batches])
        interleaved = [
            [row for rank_rows in zip(*step_rows, strict=True) for row in rank_rows]
            for step_rows in zip(*rows, strict=True)
        ]
        assert interleaved == expected


@pytest.mark.parametrize("parallelism", ["tensor_parallel", "sequence_parallel"])
def test_ranks_of_a_replica_read_the_same_and_replicas_divide_the_batch(
    run: StageRun, parallelism: str
) -> None:
    execution = TrainingExecution.parse({"world_size": 6, parallelism: 2, "micro_batch": 2})
    tokens_by_rank = [
        [micro.tolist() for micro in Batches.for_rank(run, execution, rank).read_step(1)]
        for rank in range(6)
    ]
    assert tokens_by_rank[0::2] == tokens_by_rank[1::2]
    data_parallel = TrainingExecution(world_size=3, micro_batch=2)
    assert tokens_by_rank[0::2] == [
        [micro.tolist() for micro in Batches.for_rank(run, data_parallel, rank).read_step(1)]
        for rank in range(3)
    ]
    batches = Batches.for_rank(run, execution, 0)
    assert batches.micro_batch_sequences(1, rank=5, index=0) == [
        rows[0] for rows in tokens_by_rank[5][0]
    ]


def test_steps_read_the_corpus_from_its_start_in_epochs(run: StageRun) -> None:
    batches = Batches.for_rank(run, TrainingExecution(micro_batch=12), rank=0)
    sequences = [index for step in range(1, 6) for index in batches.step_sequences(step)]
    epochs = [sorted(sequences[start : start + 10]) for start in range(0, 60, 10)]
    assert epochs == [list(range(10))] * 6


@pytest.mark.parametrize(
    ("num_sequences", "changes", "message"),
    [
        (10, {"context_length": 16}, "packed in sequences of 8 tokens"),
        (10, {"padded_vocab_size": 299}, "set padded_vocab_size to 320 or more"),
        (0, {}, "has no full sequence of 8 tokens"),
    ],
)
def test_a_corpus_that_does_not_fit_the_model_is_refused(
    tmp_path: Path, num_sequences: int, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_split(stage_run(corpus(tmp_path, num_sequences), **changes))
