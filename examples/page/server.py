"""The page for this machine alone: one address, no request to another host, nothing left behind.

- The socket is bound to 127.0.0.1, before anything slow is loaded.
- A browser is told to load nothing from elsewhere (Content-Security-Policy), and pages of other sites may neither embed
  this one nor send it anything (`Origin`), nor reach it under another name (`Host`).
- Films that are opened lie in a private folder that is removed at the end.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from utils.errors import UserError

if TYPE_CHECKING:
    import gradio

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
"""Names of this machine that a browser may use"""
LARGEST_FILE = "512mb"
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",  # gradio's own page needs them
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}
"""Environment of libraries that would otherwise tell others that they are used; read when they are imported"""


def reserve(port: int) -> socket.socket:
    """The address, before anything else is done; UserError where something else has it."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        listening.close()
        raise UserError(
            f"--port {port}: {HOST}:{port} cannot be used ({error.strerror}); name another one, or 0 for any that is free"
        ) from error
    return listening


@contextmanager
def quiet_environment() -> Iterator[None]:
    """Everything imported inside keeps to itself, and keeps its files in a folder that is removed at the end."""
    os.environ.update(QUIET)
    # a kill or a closed terminal leaves no film behind either
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        with tempfile.TemporaryDirectory(prefix="ssgvqa-page-") as folder:  # mode 0700
            os.environ["GRADIO_TEMP_DIR"] = folder
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve(make: Callable[[], gradio.Blocks], listening: socket.socket, head: str) -> None:
    """Serve the page that `make` builds until ctrl-C. `head`: HTML for its head. Call it in `quiet_environment`."""
    import fastapi
    import gradio
    import uvicorn

    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]  # names only: none is fetched
    theme = gradio.themes.Base(font=fonts, font_mono=["ui-monospace", "monospace"], primary_hue="blue").set(
        block_info_text_color="*neutral_600",  # the light grey that it comes with is hard to read
        block_title_text_color="*neutral_700",
        input_placeholder_color="*neutral_500",
    )
    app = gradio.mount_gradio_app(
        app,
        make(),
        path="/",
        server_name=HOST,
        server_port=listening.getsockname()[1],
        footer_links=[],
        show_error=False,
        max_file_size=LARGEST_FILE,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        head=head,
    )
    settings = uvicorn.Config(ThisMachine(app), log_level="critical", access_log=False, timeout_graceful_shutdown=2)
    print(f"page: http://{HOST}:{listening.getsockname()[1]}/   (ctrl-C ends it)", flush=True)
    with suppress(KeyboardInterrupt):  # which uvicorn hands on after it has ended in order
        uvicorn.Server(settings).run(sockets=[listening])


class ThisMachine:
    """ASGI middleware: refuses what other sites ask for, and tells browsers to ask no other site."""

    def __init__(self, app: Callable):
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not is_ours(headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin", b"").decode("latin-1")):
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 403, "headers": []})
                await send({"type": "http.response.body", "body": b"this page is for this machine alone"})
            return

        async def with_policy(message: dict) -> None:
            if message["type"] == "http.response.start":
                added = (b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")
                message["headers"] = [*message.get("headers", []), *added, (b"x-content-type-options", b"nosniff")]
            await send(message)

        await self.app(scope, receive, with_policy)


def is_ours(host: str, origin: str) -> bool:
    """Whether a request with these headers comes from the page itself. No origin: typed in, or not from a browser's script."""
    name, _, port = host.partition(":")
    return name in NAMES and (not port or port.isdecimal()) and origin in ("", f"http://{host}")
