"""Serving the page: on this machine alone, without asking anything of other machines."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from latent_common.errors import UserError
from latent_common.progress import say
from stages.app.opened import OpenRun

PATIENCE = 2
"""Seconds that requests have left when the server ends."""

POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'"
)
"""What browsers are told to load: nothing from other machines, whatever Gradio's page would like to."""

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


def serve(run: OpenRun, host: str, port: int) -> None:
    """Serve the page of ``run`` until Ctrl-C.

    :param port: 0 takes one that is free.
    :raises UserError: if nothing can listen there.
    """
    listening = listen(host, port)
    with listening, private_folder():
        import uvicorn

        application = within(make_application(run), POLICY)
        config = uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=PATIENCE)
        shown = f"[{host}]" if ":" in host else host
        say(f"open http://{shown}:{listening.getsockname()[1]} in a browser; Ctrl-C ends it")
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            say("ended")


def make_application(run: OpenRun) -> Application:
    """The page of ``run`` as an ASGI application."""
    import gradio as gr
    from fastapi import FastAPI

    from stages.app.page import STYLE, build_page, theme

    made: Application = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        build_page(run),
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=theme(),
        css=STYLE,
    )
    return made


def within(application: Application, policy: str) -> Application:
    """An application whose answers tell browsers what they may load."""

    async def guarded(scope: Message, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", policy.encode())
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        await application(scope, receive, sending)

    return guarded


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; what can't be had is a ``UserError``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise UserError(
            f"can't listen on --host {host} --port {port} ({error.strerror}): name another port, or 0 for any"
        ) from error
    return listening


@contextmanager
def private_folder() -> Iterator[None]:
    """A context with a folder for what is dropped, which is removed afterwards; nothing is reported home."""
    with tempfile.TemporaryDirectory(prefix="latent-aug-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # Gradio reads these when it is imported
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        yield
