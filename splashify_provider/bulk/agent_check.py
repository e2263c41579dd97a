"""Which agents Splashify refuses, found out by giving them a conversation that they hold already."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from splashify_provider.bulk.assignment import AGENT_REFUSED
from splashify_provider.bulk.sender import assign_many
from splashify_provider.exceptions import SplashifyError
from splashify_provider.redaction import without_frames

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from splashify_provider.client import SplashifyClient

MOST_TRIED = 3
"""Conversations of one agent that are tried: those before may have been resolved meanwhile."""


@without_frames(SplashifyError)  # their variables hold whole numbers
def find_refused_agents(client: SplashifyClient, held: Mapping[str, Sequence[str]]) -> dict[str, SplashifyError]:
    """Assign to each agent a conversation that they hold: "a no-op", says the vendor (public-api/chat-assignment).

    :param client: Sends the requests, one for each agent unless their conversations are gone.
    :param held: For each agent the phone numbers of customers whose conversations they hold.
    :return: The agents who are refused, and why. Who has no open conversation is not among them: nothing is known.
    :raises SplashifyError: If Splashify can't be asked.
    """
    refused: dict[str, SplashifyError] = {}
    left = {agent: list(phones[:MOST_TRIED]) for agent, phones in held.items()}
    while left := {agent: phones for agent, phones in left.items() if phones}:
        agents = list(left)
        rows = [{"user_phone_number": left[agent].pop(0), "agent_email": agent} for agent in agents]
        with closing(assign_many(client, rows)) as outcomes:  # an exception must not leave threads behind
            for outcome in outcomes:
                agent = agents[outcome.position - 1]
                error = outcome.stopped_by or outcome.error
                if error and (outcome.stopped_by or error.retryable):
                    raise error
                if isinstance(error, AGENT_REFUSED):
                    refused[agent] = error
                if error is None or agent in refused:  # anything else is about the customer
                    del left[agent]
    return refused
