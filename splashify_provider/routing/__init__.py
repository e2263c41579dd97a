"""How conversations are assigned: rosters in, a plan with reasons out. Pure Python, usable without Airflow."""

from splashify_provider.exceptions import RoutingError
from splashify_provider.routing.calendars import shifts_from_ical
from splashify_provider.routing.conversations import Conversation
from splashify_provider.routing.plan import Decision, Plan
from splashify_provider.routing.planner import plan_assignments
from splashify_provider.routing.policy import RoutingPolicy
from splashify_provider.routing.shifts import Shift, WeeklyShift, on_duty

__all__ = [
    "Conversation",
    "Decision",
    "Plan",
    "RoutingError",
    "RoutingPolicy",
    "Shift",
    "WeeklyShift",
    "on_duty",
    "plan_assignments",
    "shifts_from_ical",
]
