import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.data.steps.dedupe import Clusters, exact_clusters, jaccard, near_clusters, rows_per_band, shingles


def reference(text: str) -> set[tuple[str, ...]]:
    """The set of word 5-grams by strings."""
    words = re.findall(r"[a-z0-9_\x80-\U0010ffff]+", re.sub("[A-Z]", lambda m: m.group().lower(), text))
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def true_jaccard(one: str, two: str) -> float:
    a, b = reference(one), reference(two)
    return len(a & b) / len(a | b)


def members(clusters: Clusters, size: int) -> list[int]:
    return [clusters.first(number) for number in range(size)]


def sentence(seed: int, words: int) -> list[str]:
    return [f"word{random.Random(seed * 1000 + i).randrange(500)}" for i in range(words)]


WORDS = st.lists(st.sampled_from(["alpha", "Beta", "beta", "x_1", "été", "(", "=", "\n", "42"]), max_size=40).map(" ".join)


@given(WORDS, WORDS)
@settings(deadline=None, max_examples=200)
def test_shingles_are_those_of_a_plain_implementation(one: str, two: str) -> None:
    if re.search(r"\w", one) and re.search(r"\w", two):
        assert len(shingles(one)) == len(reference(one))
        assert jaccard(shingles(one), shingles(two)) == pytest.approx(true_jaccard(one, two))


@given(st.text(), st.text())
@settings(deadline=None)
def test_any_text_has_shingles(one: str, two: str) -> None:
    assert len(shingles(one)) >= 1
    assert jaccard(shingles(one), shingles(one)) == 1


def test_exact_copies_point_to_the_first() -> None:
    assert members(exact_clusters(["a", "b", "a", "A", "b", ""]), 6) == [0, 1, 0, 3, 1, 5]


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_planted_near_copies_are_found_and_others_are_not(similarity: float) -> None:
    texts = []
    for seed in range(60):
        words = sentence(seed, 300)
        changed = list(words)
        for place in range(0, 300, random.Random(seed).choice([10, 20, 30, 60, 150, 400])):
            changed[place] = f"other{place}"
        texts += [" ".join(words), " ".join(changed)]
    found = members(near_clusters(texts, similarity), len(texts))
    for number in range(0, len(texts), 2):
        near = true_jaccard(texts[number], texts[number + 1]) >= similarity
        assert found[number] == number
        assert found[number + 1] == (number if near else number + 1)


def test_chains_become_one_cluster() -> None:
    words = [f"w{i}" for i in range(200)]
    chain = [" ".join(words[shift : shift + 150]) for shift in (0, 12, 24)]
    assert true_jaccard(chain[0], chain[2]) < 0.8 <= true_jaccard(chain[0], chain[1])
    assert members(near_clusters(chain, 0.8), 3) == [0, 0, 0]


def test_layout_and_capitals_do_not_hide_a_copy_and_signs_alone_are_compared_whole() -> None:
    texts = ["def f(x): return X + 1 # so", "def f(x):\n    return x+1  #  So", "!!!", "???", "!!!", ""]
    assert members(near_clusters(texts, 0.8), 6) == [0, 0, 2, 3, 2, 5]
    assert members(near_clusters([], 0.8), 0) == []


@pytest.mark.parametrize(("similarity", "rows"), [(0.5, 2), (0.8, 4), (0.95, 8)])
def test_bands_miss_fewer_than_one_pair_in_ten_thousand(similarity: float, rows: int) -> None:
    assert rows_per_band(similarity) == rows
    assert (1 - similarity**rows) ** (128 // rows) < 1e-4
