from __future__ import annotations

import random

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from splashify_provider.bulk.assignment import Assignment
from splashify_provider.bulk.checkpoint import CHUNK, PAGE, Checkpoint
from tests.bulk.simulation import assignments
from tests.conftest import ADA, BEN, number
from tests.operators.bulk_task import Store


class BrokenStore(Store):
    """A state store some of whose methods fail, and which counts its calls."""

    def __init__(self, *broken):
        super().__init__()
        self.broken, self.calls = set(broken), []

    def _called(self, name):
        self.calls.append(name)
        if name in self.broken:
            raise RuntimeError(f"API server is away, said to +{number(7)}")

    def get(self, key, default=None):
        self._called("get")
        return super().get(key, default)

    def set(self, key, value):
        self._called("set")
        super().set(key, value)

    def clear(self):
        self._called("clear")
        super().clear()


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def outcome(checkpoint, item):
    """Give what an earlier try has done with an assignment."""
    done = checkpoint.done_before(item)
    return done and done.outcome


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store():
    return BrokenStore()


@pytest.fixture
def open_it(store, clock):
    """Begin a try that sends these assignments."""

    def open_it(to_send=(), *, secret=b"secret", max_in_flight=8):
        checkpoint = Checkpoint(store, secret, max_in_flight, clock)
        checkpoint.begin(to_send)
        store.calls.clear()
        return checkpoint

    return open_it


def do(checkpoint, *items, outcome="assigned", refused=()):
    for item in items:
        checkpoint.save_if_due()
        checkpoint.add(item.ended(outcome, "", refused=dict.fromkeys(refused)))


class TestRemembering:
    @pytest.mark.parametrize("count", [0, 1, PAGE - 2, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
    def test_what_was_saved_is_known_to_the_next_try(self, open_it, count):
        done, other = assignments(*range(count)), assignments(9999)[0]
        checkpoint = open_it()
        do(checkpoint, *done)
        assert checkpoint.save() is None
        again = open_it()
        assert [outcome(again, item) for item in done] == ["assigned"] * count
        assert outcome(again, other) is None
        assert again.is_empty is (count == 0)

    def test_it_goes_by_number_agent_and_outcome(self, open_it):
        one, two = assignments(1, 2)
        checkpoint = open_it()
        do(checkpoint, one)
        do(checkpoint, two, outcome="conversation_not_found")
        checkpoint.save()
        again = open_it()
        assert outcome(again, Assignment(99, one.user_phone_number, "Ada@Example.com")) == "assigned"
        assert outcome(again, Assignment(1, one.user_phone_number, BEN)) is None
        assert outcome(again, two) == "conversation_not_found"

    def test_who_of_the_line_has_it_is_known_as_long_as_the_line_up_to_them_is_the_same(self, open_it):
        (item,) = assignments(1)
        checkpoint, eva = open_it(), "eva@example.com"
        do(checkpoint, Assignment(1, item.user_phone_number, ADA, (BEN, eva)), refused=[ADA])
        checkpoint.save()

        def holder(agent, *fallbacks):
            done = open_it().done_before(Assignment(1, item.user_phone_number, agent, fallbacks))
            return done and done.agent_email

        assert holder(ADA, BEN, eva) == BEN
        assert holder("ADA@example.com", "Ben@Example.com") == "Ben@Example.com"
        assert holder(ADA, BEN) == BEN
        assert [holder(ADA), holder(BEN), holder(BEN, ADA), holder(ADA, eva, BEN), holder(eva, ADA, BEN)] == [None] * 5

    def test_one_that_had_it_in_the_first_place_does_not_count_where_they_are_next_in_line(self, open_it):
        (item,) = assignments(1)
        checkpoint = open_it()
        do(checkpoint, Assignment(1, item.user_phone_number, BEN))
        checkpoint.save()
        assert open_it().done_before(Assignment(1, item.user_phone_number, ADA, (BEN,))) is None

    def test_a_release_is_none_of_the_assignments(self, open_it):
        one, two = assignments(1, 2)
        release = Assignment(1, one.user_phone_number, None)
        checkpoint = open_it()
        do(checkpoint, release, outcome="released")
        do(checkpoint, two)
        checkpoint.save()
        again = open_it()
        assert outcome(again, release) == "released"
        assert outcome(again, one) is None
        assert outcome(again, Assignment(2, two.user_phone_number, None)) is None

    def test_what_is_about_to_be_sent_is_forgotten_before(self, open_it, store):
        one, two = assignments(1, 2)
        first = open_it()
        do(first, one, two)
        first.save()
        open_it([Assignment(1, one.user_phone_number, BEN)])  # and is killed
        third = open_it()
        assert [outcome(third, item) for item in (one, two)] == [None, "assigned"]

    def test_the_last_agent_of_a_number_counts_not_all_it_ever_had(self, open_it):
        (ada,) = assignments(1)
        ben = Assignment(1, ada.user_phone_number, BEN)
        for item in (ada, ben, ada, ben):
            checkpoint = open_it([item])
            do(checkpoint, item)
            checkpoint.save()
        again = open_it()
        assert (outcome(again, ada), outcome(again, ben)) == (None, "assigned")

    def test_another_key_or_address_makes_it_void_for_good(self, open_it, log):
        (item,) = assignments(1)
        checkpoint = open_it()
        do(checkpoint, item)
        checkpoint.save()
        assert outcome(open_it(secret=b"another"), item) is None
        assert "another plan, API key or Base URL" in log.text
        assert outcome(open_it(), item) is None

    @pytest.mark.parametrize("content", ["not a checkpoint", "", 7, None, ["ab" * 11], "ab" * 12])
    def test_what_is_no_checkpoint_is_nothing_done(self, open_it, store, content):
        store["splashify_done_0"] = content
        assert open_it().is_empty

    def test_pages_that_lost_their_first_one_are_removed(self, open_it, store):
        items = assignments(*range(2 * PAGE))
        checkpoint = open_it()
        do(checkpoint, *items)
        checkpoint.save()
        del store["splashify_done_0"]  # they expire one by one
        assert open_it().is_empty
        assert list(store) == ["splashify_done_0"]

    def test_it_tells_nothing_to_those_without_the_secret_and_keeps_to_small_values(self, open_it, store):
        items = assignments(*range(3 * PAGE))
        checkpoint = open_it()
        do(checkpoint, *items)
        checkpoint.save()
        assert len(store) == 4
        assert not any(item.user_phone_number in value for value in store.values() for item in items)
        assert not set("".join(store.values())) - set("0123456789abcdef")

    def test_cleared_it_knows_nothing(self, open_it, store):
        checkpoint = open_it()
        do(checkpoint, *assignments(1, 2))
        checkpoint.save()
        checkpoint.clear()
        assert store == {}

    def test_without_a_store_nothing_is_remembered(self, clock):
        checkpoint = Checkpoint(None, b"secret", 8, clock)
        checkpoint.begin(assignments(1))
        do(checkpoint, *assignments(*range(3 * CHUNK)))
        checkpoint.clear()
        assert checkpoint.is_empty
        assert not checkpoint.is_kept
        do(checkpoint, *assignments(*range(CHUNK // 2)))
        assert checkpoint.save_if_due()  # at the same rhythm, for who publishes then


class TestSaving:
    def test_it_is_saved_every_few_seconds_and_by_half_a_chunk(self, open_it, store, clock):
        checkpoint = open_it()
        do(checkpoint, *assignments(*range(10)))
        assert store.calls == []
        clock.now += 6
        assert [checkpoint.save_if_due(), checkpoint.save_if_due()] == [True, False]
        assert store.calls == ["set"]
        do(checkpoint, *assignments(*range(1000)))
        assert 8 <= store.calls.count("set") <= 12

    @pytest.mark.parametrize("max_in_flight", [1, 8, 64])
    def test_no_more_than_a_chunk_is_ever_unsaved_what_is_in_flight_included(self, open_it, store, max_in_flight):
        checkpoint, done = open_it(max_in_flight=max_in_flight), assignments(*range(1000))
        store.broken.add("set")
        made = []

        def send_all():
            for item in done:
                checkpoint.save_if_due()  # at this moment, so many as may be are under way besides
                checkpoint.add(item.ended("assigned", ""))
                made.append(item)

        with pytest.raises(AirflowException, match="as many as may have to be repeated. The batch ends here") as raised:
            send_all()
        assert len(made) + max_in_flight - 1 == CHUNK
        assert not isinstance(raised.value, AirflowFailException)
        assert "A retry goes on from what is saved" in str(raised.value).split("\n")[1]

    def test_a_store_that_is_down_is_asked_now_and_then_and_complained_of_once(self, open_it, store, clock, caplog):
        checkpoint = open_it()
        store.broken.add("set")
        for item in assignments(*range(150)):
            do(checkpoint, item)
            clock.now += 1  # 150 seconds
        assert 3 <= store.calls.count("set") <= 4
        assert caplog.text.count("could not be saved") == 1

    def test_a_store_that_recovers_has_everything(self, open_it, store, clock):
        checkpoint, done = open_it(), assignments(*range(500))
        store.broken.add("set")
        do(checkpoint, *done[:150])
        store.broken.clear()
        do(checkpoint, *done[150:])
        checkpoint.save()
        again = open_it()
        assert {outcome(again, item) for item in done} == {"assigned"}


class TestStoresThatFail:
    """Who can't know what was done, or can't forget it, sends nothing: Airflow tries again."""

    @pytest.mark.parametrize("broken", ["get", "set", "clear"])
    def test_at_the_start(self, store, clock, log, broken):
        store.broken.add(broken)
        with pytest.raises(AirflowException, match="This try has sent nothing") as raised:
            Checkpoint(store, b"secret", 8, clock).begin(assignments(1))
        assert not isinstance(raised.value, AirflowFailException)
        reason, remedy = str(raised.value).split("\n")
        assert reason in log.text
        assert remedy in log.text
        assert number(7) not in str(raised.value) + log.text

    def test_at_the_end(self, open_it, store):
        checkpoint = open_it()
        store.broken.add("clear")
        with pytest.raises(AirflowException, match="Everything is done.*\nA retry removes the checkpoint"):
            checkpoint.clear()

    def test_for_what_changes(self, open_it, store, clock):
        (item,) = assignments(1)
        first = open_it()
        do(first, item)
        first.save()
        second = Checkpoint(store, b"secret", 8, clock)
        store.broken.add("set")
        with pytest.raises(AirflowException, match="wrong agent"):
            second.begin([Assignment(1, item.user_phone_number, BEN)])


def test_numbers_and_agents_are_told_apart(open_it):
    chance = random.Random(1)
    plan = {item.user_phone_number: item for item in assignments(*range(3000))}
    chosen = {phone: chance.choice([ADA, BEN]) for phone in plan}
    checkpoint = open_it()
    do(checkpoint, *(Assignment(1, phone, agent) for phone, agent in chosen.items()))
    checkpoint.save()
    again = open_it()
    for phone, agent in chosen.items():
        assert outcome(again, Assignment(1, phone, agent)) == "assigned"
        assert outcome(again, Assignment(1, phone, BEN if agent == ADA else ADA)) is None
