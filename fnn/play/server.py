"""The server on the loopback address."""

import errno
import socket
import sys
import webbrowser
from collections.abc import Callable

from fnn import requirements
from fnn.play.match import begin
from fnn.play.settings import Settings, link

LOOPBACK = "127.0.0.1"

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><path fill="#5682c8" d="M0 0h4v8H0z"'
    '/><path fill="#e69f00" d="M4 0h4v8H4z"/></svg>'
)


def serve(settings: Settings, port: int, opens: bool, says: Callable[[str], None]) -> None:
    """Serves the page until it is interrupted; nothing but this machine reaches it.

    Args:
        settings: what the first page begins with. Its programs are compiled before, so that it
            learns from the first second.
        port: of the loopback address; 0 takes any. One that is taken is a ValueError.
        opens: whether a browser is opened.
        says: is told where the page is.
    """
    requirements.load("play", "nicegui")  # before anything is opened or compiled
    door = _door(port)
    # A thread whose steps are done has the interpreter back after 1 ms, not 5.
    sys.setswitchinterval(1e-3)
    says("Compiling the start page ...")
    begin(settings)
    query = link(settings)
    address = f"http://{LOOPBACK}:{door.getsockname()[1]}/{'?' + query if query else ''}"
    says(f"The playground is at {address} until you press Ctrl-C.")
    if opens:
        webbrowser.open(address)
    _run(door)


def _run(door: socket.socket) -> None:
    """Serves the pages of all visitors."""
    import uvicorn
    from fastapi import FastAPI
    from nicegui import Client, ui
    from starlette.requests import Request

    from fnn.play import page

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @ui.page("/")
    def index(client: Client, request: Request) -> None:
        page.build(client, request.url.query)

    # No history of messages: pictures of minutes ago would fill the memory.
    ui.run_with(
        app, title=page.TITLE, favicon=ICON, message_history_length=0, show_welcome_message=False
    )
    config = uvicorn.Config(app, log_level="warning", ws_per_message_deflate=False)
    uvicorn.Server(config).run(sockets=[door])


def _door(port: int) -> socket.socket:
    """A socket at the port; one that is taken is refused with what to try."""
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((LOOPBACK, port))
        door.listen()
    except OSError as error:
        door.close()
        if error.errno == errno.EADDRINUSE:
            got = "which another program has"
        elif error.errno == errno.EACCES:
            got = "which this user may not open"
        else:
            raise
        raise ValueError(
            f"play: expected a free port, got {port}, {got}; try --port 0, which takes any"
        ) from None
    return door
