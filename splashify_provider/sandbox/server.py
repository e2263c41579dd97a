"""The sandbox's HTTP side: the documented contract, kept strictly, and scenarios that break it on purpose."""

from __future__ import annotations

import asyncio
import json
import math
import re
import socket
import struct
import threading
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from aiohttp import web

from splashify_provider.sandbox.control import add_control, read_json
from splashify_provider.sandbox.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path
    from types import TracebackType

# A key of this form is accepted too, and answers everything with the scenario it names.
SCENARIO_KEY_PREFIX = "sk_sandbox_"
API = "/api/v1/public/assignment/"
_HOSTS = ("127.0.0.1", "[::1]", "localhost")
_LONGEST_BODY = 256 * 1024
_HTML_ERROR = "<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center><hr>nginx</body></html>"


def _answer(status: int, message: str, **headers: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a handler that answers in the public API's envelope."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response({"result": status == 200, "message": message}, status=status, headers=headers)

    return handler


def _body(status: int, body: str, content_type: str = "application/json", **headers: str) -> Callable[..., Any]:
    """Return a handler that answers with any other text."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body, content_type=content_type, headers=headers)

    return handler


def _redirect(status: int) -> Callable[..., Any]:
    return _body(status, "", "text/html", Location=API)


async def _rate_limited_until(_: web.Request) -> web.StreamResponse:
    headers = {"Retry-After": formatdate(time.time() + 3, usegmt=True)}
    return web.json_response({"result": False, "message": "Too many requests"}, status=429, headers=headers)


async def _truncated(request: web.Request) -> web.StreamResponse:
    """Promise a body and close the connection in its middle."""
    response = web.StreamResponse(headers={"Content-Length": "58", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"result": tr')
    if request.transport is not None:
        request.transport.close()
    return response


async def _reset(request: web.Request) -> web.StreamResponse:
    """Reset the connection instead of answering."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()


async def _hang(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    return web.Response()


# How a request can be answered other than by the contract. Chosen for a phone number or a key.
SCENARIOS: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
    "agent_not_found": _answer(400, "Agent not found"),
    "agent_inactive": _answer(400, "Agent inactive"),
    "conversation_not_found": _answer(400, "Conversation not found"),
    "bad_request": _answer(400, "Something else is wrong"),
    "unauthorized": _answer(401, "Invalid API key"),
    "plan_required": _body(403, json.dumps({"success": False, "error": "plan_required"})),
    "account_suspended": _answer(403, "WhatsApp account suspended"),
    "ip_blocked": _body(
        403,
        json.dumps(
            {
                "success": False,
                "code": "ip_blocked",
                "ip": "203.0.113.45",
                "message": "Access denied — 203.0.113.45 is not on the allowlist",
            }
        ),
    ),
    "not_found": _body(404, _HTML_ERROR.format("404 Not Found"), "text/html"),
    "rate_limited": _answer(429, "Too many requests"),
    "rate_limited_header": _answer(429, "Too many requests", **{"Retry-After": "2"}),
    "rate_limited_date": _rate_limited_until,
    "rate_limited_body": _body(429, json.dumps({"result": False, "message": "Too many requests", "Retry-After": 2})),
    "rate_limited_long": _answer(429, "Too many requests", **{"Retry-After": "600"}),
    "server_error": _body(500, _HTML_ERROR.format("500 Internal Server Error"), "text/html"),
    "bad_gateway": _body(502, _HTML_ERROR.format("502 Bad Gateway"), "text/html"),
    "unavailable": _body(503, _HTML_ERROR.format("503 Service Unavailable"), "text/html"),
    "gateway_timeout": _body(504, _HTML_ERROR.format("504 Gateway Timeout"), "text/html"),
    "result_false": _body(200, '{"result": false, "message": "Not now"}'),
    "no_result": _body(200, '{"message": "Chat Assigned Successfully"}'),
    "not_json": _body(200, _HTML_ERROR.format("Welcome"), "text/html"),
    "empty": _body(200, ""),
    "truncated_json": _body(200, '{"result": tr'),
    "redirect_301": _redirect(301),
    "redirect_302": _redirect(302),
    "redirect_307": _redirect(307),
    "redirect_308": _redirect(308),
    "truncated": _truncated,
    "reset": _reset,
    "hang": _hang,
}


@web.middleware
async def _refuse_other_sites(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer only to this machine's own names, and nothing that a browser sends for a page of another site."""
    host = request.headers.get("Host", "").lower()  # with the port of whatever forwards to it
    site, origin = request.headers.get("Sec-Fetch-Site", "none"), request.headers.get("Origin")
    if re.sub(r":\d+$", "", host) not in _HOSTS:  # a name of theirs that leads here
        return _refusal(f"The sandbox answers to {', '.join(_HOSTS)} only.")
    if request.path != "/" and (site not in ("none", "same-origin") or origin not in (None, f"http://{host}")):
        return _refusal("The sandbox answers nothing that a page of another site asks for.")
    return await handler(request)


def _refusal(message: str) -> web.StreamResponse:
    return web.json_response({"result": False, "message": message}, status=403)


class _Handlers:
    """What the sandbox answers, from its workspace."""

    def __init__(self, workspace: Workspace, latency: float) -> None:
        self._workspace, self._latency = workspace, latency

    async def assignment(self, request: web.Request) -> web.StreamResponse:
        workspace = self._workspace
        if self._latency:
            await asyncio.sleep(self._latency)
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        scenario_of_key = key.removeprefix(SCENARIO_KEY_PREFIX) if key.startswith(SCENARIO_KEY_PREFIX) else None
        if scheme != "Basic" or not (key in workspace.keys or scenario_of_key in SCENARIOS):
            workspace.record(401, "Invalid API key", anonymous=True)
            return web.json_response({"result": False, "message": "Invalid API key"}, status=401)
        payload = await read_json(request) if request.content_type == "application/json" else None
        phone, agent, problem = _fields(payload)
        if wait := workspace.hit(key):
            workspace.record(429, "Too many requests", phone, agent)
            return web.json_response(
                {"result": False, "message": "Too many requests", "Retry-After": math.ceil(wait)}, status=429
            )
        if scenario := workspace.take_scenario(phone) or workspace.take_scenario(key) or scenario_of_key:
            status = 0  # none was sent: the client gave up first
            try:
                response = await SCENARIOS[scenario](request)
                status = response.status
            finally:
                workspace.record(status, f"scenario {scenario}", phone, agent)
            return response
        conversation = workspace.conversations.get(phone)
        was = conversation.agent_email if conversation else None
        status, message = (400, problem) if problem else workspace.assign(phone, agent)
        workspace.record(status, message, phone, agent or None, was, accepted=status == 200)
        return web.json_response({"result": status == 200, "message": message}, status=status)

    async def moved(self, _: web.Request) -> web.StreamResponse:
        self._workspace.record(301, "no trailing slash", anonymous=True)
        raise web.HTTPMovedPermanently(API)


def build_app(workspace: Workspace, latency: float = 0.0) -> web.Application:
    """Build the web application.

    :param workspace: The state it serves and changes.
    :param latency: Seconds that every API answer takes longer.
    :return: The application, to be run by aiohttp.
    """
    handlers = _Handlers(workspace, latency)
    app = web.Application(middlewares=[_refuse_other_sites], client_max_size=_LONGEST_BODY)
    app.router.add_post(API, handlers.assignment)
    # Where a followed 301 ends: a GET that answers 200 and assigns nothing.
    app.router.add_get(API, _body(200, "This address takes POST.", "text/plain"))
    app.router.add_route("*", API.rstrip("/"), handlers.moved)
    add_control(app, workspace)
    return app


def _fields(payload: object) -> tuple[str, str, str]:
    """Read the request: phone number, agent (empty to release), and what is wrong with it."""
    if not isinstance(payload, dict):
        return "", "", "The body must be a JSON object"
    phone, agent = payload.get("user_phone_number"), payload.get("agent_email")
    if phone in (None, ""):
        return "", "", "user_phone_number is required"
    if not isinstance(phone, str) or not (phone.isascii() and phone.isdigit()):
        return "", "", "user_phone_number must contain digits only"
    if agent is not None and not isinstance(agent, str):
        return phone, "", "agent_email must be a string"
    return phone, agent or "", ""


class Sandbox:
    """A sandbox in a thread of this process, for tests and scripts.

    ::

        with Sandbox({"agents": [...], "conversations": [...]}) as sandbox:
            requests.post(sandbox.base_url + "/public/assignment/", ...)

    :param seed: What the workspace holds; see :meth:`Workspace.load`.
    :param port: The TCP port on loopback; any free one by default.
    :param latency: Seconds that every API answer takes longer.
    :param workspace: Further arguments of :class:`Workspace`.
    """

    def __init__(
        self, seed: Mapping[str, Any] | Path | None = None, *, port: int = 0, latency: float = 0.0, **workspace: Any
    ) -> None:
        self.workspace = Workspace(scenario_names=tuple(SCENARIOS), **workspace)
        self.workspace.load(seed)
        self._latency = latency
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._socket = socket.create_server(("127.0.0.1", port), backlog=512)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.base_url = self.url + "/api/v1"

    def __enter__(self) -> Sandbox:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        app = build_app(self.workspace, self._latency)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()
