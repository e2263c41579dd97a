"""The sandbox's own side: its page, its state, and what changes agents and scenarios while it runs."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from splashify_provider.exceptions import InvalidAgentEmailError

if TYPE_CHECKING:
    from splashify_provider.sandbox.workspace import Workspace

_PAGE = Path(__file__).with_name("inbox.html")
_FRESH = {"Cache-Control": "no-store"}


def add_control(app: web.Application, workspace: Workspace) -> None:
    """Add the page and what it and tests ask for.

    :param app: The application that serves the API.
    :param workspace: The state that is shown and changed.
    """
    handlers = _Handlers(workspace)
    app.router.add_get("/", _page)
    app.router.add_get("/sandbox/state", handlers.state)
    app.router.add_get("/sandbox/inboxes", handlers.inboxes)
    app.router.add_put("/sandbox/agents/{email}", handlers.change_agent)
    app.router.add_delete("/sandbox/agents/{email}", handlers.remove_agent)
    app.router.add_put("/sandbox/scenarios/{subject}", handlers.change_scenario)


async def read_json(request: web.Request) -> Any:
    """Read a request's body.

    :param request: The request.
    :return: Its JSON; None if it is none.
    """
    try:
        return await request.json()
    except (ValueError, LookupError, RecursionError):  # not JSON, in no known charset, or too deep
        return None


class _Handlers:
    """What the sandbox answers about itself."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    async def state(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(self._workspace.as_json(), headers=_FRESH)

    async def inboxes(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(self._workspace.inboxes(), headers=_FRESH)

    async def change_agent(self, request: web.Request) -> web.StreamResponse:
        payload = await read_json(request)
        active = payload.get("active") if isinstance(payload, dict) else None
        if not isinstance(active, bool):
            raise web.HTTPBadRequest(text="An agent is changed by active: true or false.")
        try:
            agent = self._workspace.set_agent(request.match_info["email"], active=active)
        except InvalidAgentEmailError:  # whose text is about sending
            raise web.HTTPBadRequest(text="That is not an e-mail address. Nothing was changed.") from None
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return web.json_response(asdict(agent))

    async def remove_agent(self, request: web.Request) -> web.StreamResponse:
        try:
            self._workspace.remove_agent(request.match_info["email"])
        except KeyError:
            raise web.HTTPNotFound(text="There is no such agent.") from None
        return web.Response(status=204)

    async def change_scenario(self, request: web.Request) -> web.StreamResponse:
        payload = await read_json(request)
        scenario = payload.get("scenario", "") if isinstance(payload, dict) else ""
        try:
            self._workspace.set_scenario(request.match_info["subject"], None if scenario is None else str(scenario))
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return web.json_response(self._workspace.as_json())


async def _page(_: web.Request) -> web.StreamResponse:
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; connect-src 'self'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return web.Response(
        text=_PAGE.read_text(encoding="utf-8").replace("NONCE", nonce),
        content_type="text/html",
        headers={"Content-Security-Policy": policy, **_FRESH},
    )
