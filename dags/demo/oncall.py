"""A scheduling service on loopback: PagerDuty's ``GET /oncalls``, and the same roster as a private calendar."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

TOKEN = "Token token=demo-oncall-key"  # noqa: S105 - of this stand-in
FEED = "private/demo-feed-address/team.ics"


class OnCall:
    """Serve a roster until closed, in the shape of PagerDuty's REST API v2.

    :param roster: E-mail address, start and end (ISO 8601 with an offset) of each shift.
    """

    def __init__(self, roster: list[tuple[str, str, str]]) -> None:
        self.roster = roster
        self.requests: list[str] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.requests.append(self.path)
                address = urlsplit(self.path)
                if address.path == f"/{FEED}":
                    self._answer(200, "text/calendar", service.calendar())
                elif self.headers["Authorization"] != TOKEN:
                    self._answer(401, "application/json", '{"error": {"message": "Unauthorized", "code": 2006}}')
                elif address.path == "/oncalls":
                    self._answer(200, "application/json", json.dumps(service.oncalls(parse_qs(address.query))))
                else:
                    self._answer(404, "application/json", "{}")

            def _answer(self, status: int, kind: str, body: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        host = f"http://127.0.0.1:{self._server.server_port}"
        self.connections = {
            "oncall_api": {"conn_type": "http", "host": host, "extra": {"Authorization": TOKEN}},
            "oncall_calendar": {"conn_type": "http", "host": host, "password": FEED},
        }

    def __enter__(self) -> OnCall:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def oncalls(self, query: dict[str, list[str]]) -> dict[str, object]:
        """Answer one page: whose shifts overlap the period, each at the first level and with a stand-in at the second.

        Pages hold ten at most, so that whoever doesn't turn them notices.
        """
        since, until = (datetime.fromisoformat(query[name][0]) for name in ("since", "until"))
        offset, limit = int(query["offset"][0]), min(10, int(query["limit"][0]))
        stand_in, wanted = self.roster[0][0], query.get("schedule_ids[]")
        entries = [
            {
                "escalation_policy": {"id": "PDEMO01", "type": "escalation_policy_reference", "summary": "Support"},
                "escalation_level": level,
                "schedule": {"id": "PDEMO02", "type": "schedule_reference", "summary": "Support"},
                "user": {"id": "PDEMO03", "type": "user", "summary": who, "name": who, "email": who}
                if "users" in query.get("include[]", [])
                else {"id": "PDEMO03", "type": "user_reference", "summary": who},
                "start": start,
                "end": end,
            }
            for agent, start, end in self.roster
            if datetime.fromisoformat(start) < until and since < datetime.fromisoformat(end)
            for level, who in ((1, agent), (2, stand_in))
            if not wanted or "PDEMO02" in wanted
        ]
        page = entries[offset : offset + limit]
        return {"oncalls": page, "limit": limit, "offset": offset, "more": offset + limit < len(entries), "total": None}

    def calendar(self) -> str:
        """Write the roster as an iCalendar file, as scheduling services do: in UTC, one event a shift."""

        def utc(text: str) -> str:
            return datetime.fromisoformat(text).astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ")

        lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//demo//on-call//EN"]
        for number, (agent, start, end) in enumerate(self.roster):
            lines += ["BEGIN:VEVENT", f"UID:{number}@demo", f"DTSTART:{utc(start)}", f"DTEND:{utc(end)}"]
            lines += [f"SUMMARY:On Call - {agent.split('@')[0].title()} - Support", f"ATTENDEE:{agent}", "END:VEVENT"]
        return "\r\n".join([*lines, "END:VCALENDAR", ""])
