from __future__ import annotations

import pytest

from splashify_provider.routing import RoutingError, RoutingPolicy
from tests.routing.helpers import email


@pytest.mark.parametrize(
    "fields",
    [
        {"nobody_on_duty": "pray"},
        {"nobody_on_duty": "fall_through"},
        {"nobody_on_duty": ["fail"]},
        {"no_speaker": "pray"},
        {"nobody_on_duty": "fallback_agent"},
        {"no_speaker": "fallback_agent", "fallback_agent": " "},
        {"fallback_agent": "the boss"},
        {"fallback_agent": "boss@x"},
        {"steps": ()},
        {"steps": "owner"},
        {"steps": None},
        {"steps": ("owner", "luck")},
        {"steps": ("owner", "owner")},
        {"steps": (["owner"],)},
        {"no_speaker": "leave", "steps": ("owner",)},
        {"headroom": -0.1},
        {"headroom": float("nan")},
        {"headroom": "much"},
    ],
)
def test_what_makes_no_sense_is_refused(fields):
    with pytest.raises(RoutingError, match=f"^1 problem in this RoutingPolicy:\n  ({'|'.join(fields)})") as raised:
        RoutingPolicy(**fields)
    assert raised.value.reason == "1 problem in this RoutingPolicy:"


def test_all_that_makes_no_sense_is_named_at_once():
    with pytest.raises(RoutingError) as raised:
        RoutingPolicy(nobody_on_duty="pray", fallback_agent="the boss", steps=(), headroom=-1)
    assert [problem.split(" ")[0] for problem in raised.value.problems] == [
        "fallback_agent", "nobody_on_duty", "steps", "headroom",
    ]  # fmt: skip
    assert str(raised.value).startswith("4 problems in this RoutingPolicy:\n")


def test_a_phone_number_in_the_wrong_place_is_not_repeated():
    with pytest.raises(RoutingError) as raised:
        RoutingPolicy(fallback_agent="+1 202 555 0101", headroom="12025550102", nobody_on_duty="12025550103")
    assert "555" not in str(raised.value)


def test_a_fallback_counts_only_where_the_policy_uses_it():
    assert RoutingPolicy(fallback_agent=email("boss")).used_fallback is None
    for option in ("nobody_on_duty", "no_speaker"):
        policy = RoutingPolicy(fallback_agent=f" {email('boss')} ", **{option: "fallback_agent"})
        assert policy.used_fallback == email("boss")
