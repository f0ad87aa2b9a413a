"""Decontamination, compared with a simple search, and with HumanEval in a real document."""

from __future__ import annotations

import argparse
import inspect
import json
import pickle
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import ConfigError
from components.data.filters.decontamination import (
    EXCERPT_CHARACTERS,
    BenchmarkText,
    DecontaminationConfig,
    Decontaminator,
    Match,
)
from components.data.filters.ngrams import find_words, prefix_hashes, word_hashes
from components.evaluation.benchmarks.humaneval import load_humaneval

ALPHABET = [chr(ord("a") + i) for i in range(15)]


def column(*texts: str) -> pa.LargeStringArray:
    return pa.array(texts, type=pa.large_string())


def problem(text: str, name: str = "0") -> BenchmarkText:
    return BenchmarkText(benchmark="toy", problem=name, text=text)


def simple_words(text: str) -> list[tuple[bytes, int, int]]:
    """Words with their character spans."""
    content = text.encode()
    return [
        (
            match.group(),
            len(content[: match.start()].decode()),
            len(content[: match.end()].decode()),
        )
        for match in re.finditer(rb"[a-z0-9\x80-\xff]+", content.lower())
    ]


def simple_search(
    texts: list[str], problems: list[BenchmarkText], config: DecontaminationConfig
) -> list[Match]:
    matches = []
    for document, text in enumerate(texts):
        words = simple_words(text)
        for problem_text in problems:
            problem_words = [word for word, _, _ in simple_words(problem_text.text)]
            length = min(len(problem_words), config.ngram_words)
            if length < min(config.min_problem_words, config.ngram_words):
                continue
            ngrams = {
                tuple(problem_words[i : i + length]) for i in range(len(problem_words) - length + 1)
            }
            occurrences = [
                (ngram, i)
                for i in range(len(words) - length + 1)
                if (ngram := tuple(word for word, _, _ in words[i : i + length])) in ngrams
            ]
            share = len({ngram for ngram, _ in occurrences}) / len(ngrams)
            if occurrences and share >= config.threshold:
                first = occurrences[0][1]
                start, end = words[first][1], words[first + length - 1][2]
                num_ngrams = len({ngram for ngram, _ in occurrences})
                excerpt = text[start:end][:EXCERPT_CHARACTERS]
                matches.append(
                    Match(
                        document,
                        problem_text.benchmark,
                        problem_text.problem,
                        num_ngrams,
                        share,
                        start,
                        end,
                        excerpt,
                    )
                )
    return matches


# Two of these words have the same hash.
WORDS = st.sampled_from(
    ["a", "A", "b", "\u00e9", "\u4e16x", "abcdefghXijklmnop", "abcdefghYijklmnop", "7"]
)
GAPS = st.sampled_from([" ", "\n", "_", " = ", "\t\t", "\0"])
TEXT = st.lists(st.tuples(WORDS, GAPS), max_size=12).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)


@settings(deadline=None, max_examples=300)
@given(
    texts=st.lists(TEXT, max_size=4),
    problems=st.lists(TEXT, max_size=4),
    ngram_words=st.integers(1, 5),
    min_problem_words=st.integers(1, 6),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    skipped=st.integers(0, 2),
)
def test_matches_equal_those_of_a_simple_search(
    texts: list[str],
    problems: list[str],
    ngram_words: int,
    min_problem_words: int,
    threshold: float,
    skipped: int,
) -> None:
    config = DecontaminationConfig(
        ngram_words=ngram_words, min_problem_words=min_problem_words, threshold=threshold
    )
    benchmark = [problem(text, str(number)) for number, text in enumerate(problems)]
    matches = Decontaminator(benchmark, config).find(column(*texts)[skipped:])
    assert matches == simple_search(texts[skipped:], benchmark, config)


def test_problem_is_found_despite_other_case_and_white_space() -> None:
    problems = {problem.task_id: problem for problem in load_humaneval()}
    texts = [
        BenchmarkText(
            benchmark="humaneval",
            problem=name,
            text=record.prompt + record.canonical_solution,
        )
        for name, record in problems.items()
    ]
    prompt = problems["HumanEval/10"].prompt
    planted = re.sub(r"\s+", " \n\t", prompt.upper())
    real = inspect.getsource(argparse)
    middle = real.index("\nclass ")
    documents = column(real, real[:middle] + planted + real[middle:], inspect.getsource(json))
    config = DecontaminationConfig()
    (match,) = Decontaminator(texts, config).find(documents)
    assert (match.document, match.benchmark, match.problem) == (1, "humaneval", "HumanEval/10")
    assert (
        match
        == simple_search(
            documents.to_pylist(),
            [text for text in texts if text.problem == "HumanEval/10"],
            config,
        )[0]
    )
    assert match.share > 0.5  # The prompt is more than half of prompt and solution.
    document = documents[1].as_py()
    assert middle <= match.start < match.end <= middle + len(planted)
    assert match.excerpt == document[match.start : match.end]
    assert [word for word, _, _ in simple_words(match.excerpt)] == [
        word for word, _, _ in simple_words(prompt)
    ][:13]


def test_share_equal_to_the_threshold_is_a_match() -> None:
    """15 words have three n-grams of 13; a document with the first 13 words contains one of
    them."""
    thirteen = " ".join(ALPHABET[:13])
    for threshold, matched in ((0.0, 1), (1 / 3, 1), (0.34, 0)):
        matches = Decontaminator(
            [problem(" ".join(ALPHABET))], DecontaminationConfig(threshold=threshold)
        ).find(column(thirteen))
        assert len(matches) == matched
    (match,) = Decontaminator([problem(" ".join(ALPHABET))], DecontaminationConfig()).find(
        column("x", f"\u00e9! ({thirteen})")
    )
    assert match == Match(1, "toy", "0", 1, 1 / 3, 4, 4 + len(thirteen), thirteen)


def test_ngrams_do_not_cross_documents() -> None:
    decontaminator = Decontaminator([problem(" ".join(ALPHABET[:13]))], DecontaminationConfig())
    assert decontaminator.find(column(" ".join(ALPHABET[:6]), " ".join(ALPHABET[6:13]))) == []
    assert (
        decontaminator.find(
            column(" ".join(ALPHABET[:6]) + " ", "", " " + " ".join(ALPHABET[6:13]))
        )
        == []
    )
    assert (
        len(decontaminator.find(column(" ".join(ALPHABET[:6]) + " " + " ".join(ALPHABET[6:13]))))
        == 1
    )


def test_short_problem_is_matched_as_a_whole_or_listed() -> None:
    eight, seven = problem("a b c d e f g h", "eight"), problem("a b c d e f g", "seven")
    decontaminator = Decontaminator([eight, seven], DecontaminationConfig())
    assert decontaminator.too_short == (seven,)
    (match,) = decontaminator.find(column("a b c d e f g", "z A.B.C.D.E.F.G.H z"))
    assert (match.document, match.problem, match.num_ngrams, match.share) == (1, "eight", 1, 1.0)


def test_hash_collision_is_no_match() -> None:
    word, colliding_word = "abcdefghXijklmnop", "abcdefghYijklmnop"
    words = find_words(column(f"{word} {colliding_word}"))
    first, second = word_hashes(words, prefix_hashes(words), np.arange(2)).tolist()
    assert first == second
    decontaminator = Decontaminator([problem(" ".join([word] * 13))], DecontaminationConfig())
    assert decontaminator.find(column(" ".join([colliding_word] * 13))) == []
    assert len(decontaminator.find(column(" ".join([word] * 13)))) == 1


def test_excerpt_is_limited() -> None:
    spread = (" " * 1000).join(ALPHABET[:13])
    (match,) = Decontaminator([problem(" ".join(ALPHABET[:13]))], DecontaminationConfig()).find(
        column(spread)
    )
    assert (match.start, match.end) == (0, len(spread))
    assert match.excerpt == spread[:EXCERPT_CHARACTERS]


def test_decontaminator_can_be_pickled() -> None:
    texts = [problem(" ".join(ALPHABET)), problem("a b", "short")]
    decontaminator = Decontaminator(texts, DecontaminationConfig(threshold=0.5))
    copy = pickle.loads(pickle.dumps(decontaminator))  # noqa: S301 - pickled above
    documents = column(" ".join(ALPHABET), " ".join(ALPHABET[:13]), "")
    assert (
        copy.find(documents)
        == decontaminator.find(documents)
        == simple_search(documents.to_pylist(), texts, DecontaminationConfig(threshold=0.5))
    )
    assert copy.too_short == decontaminator.too_short == (texts[1],)


def test_no_match_if_disabled_or_without_problems_or_texts() -> None:
    text = " ".join(ALPHABET)
    assert (
        Decontaminator([problem(text)], DecontaminationConfig(enabled=False)).find(column(text))
        == []
    )
    assert Decontaminator([], DecontaminationConfig()).find(column(text)) == []
    assert Decontaminator([problem(text)], DecontaminationConfig()).find(column()) == []
    assert Decontaminator([problem(text)], DecontaminationConfig()).find(column("", "")) == []


def test_two_texts_for_a_problem_are_rejected() -> None:
    with pytest.raises(ConfigError, match="toy has 2 texts for the problem '0'"):
        Decontaminator([problem("a"), problem("b")], DecontaminationConfig())
