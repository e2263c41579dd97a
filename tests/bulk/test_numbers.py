from __future__ import annotations

import gc
import random
import sys
import warnings

import pytest

from splashify_provider.bulk import numbers


@pytest.mark.parametrize("cache", [8192, 16])
def test_it_is_a_mapping_whether_it_fits_into_its_cache_or_not(monkeypatch, cache):
    monkeypatch.setattr(numbers, "_CACHE_KB", cache)
    chance = random.Random(cache)
    mapping, expected = numbers.Numbers(), {}
    keys = [chance.randrange(10**15) for _ in range(5000)]
    for _ in range(20_000):
        key = chance.choice(keys)
        if chance.random() < 0.2:
            mapping.discard(key)
            expected.pop(key, None)
        else:
            expected[key] = chance.randrange(2**56)
            mapping.set(key, expected[key])
    assert {key: mapping.get(key) for key in keys} == {key: expected.get(key) for key in keys}
    mapping.clear()
    assert not any(mapping.get(key) for key in keys)


def test_it_leaves_nothing_open(monkeypatch):
    faults = []
    monkeypatch.setattr(sys, "unraisablehook", faults.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbers.Numbers().set(1, 2)
        gc.collect()
    assert not faults
