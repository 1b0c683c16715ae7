# SPDX-License-Identifier: Apache-2.0
"""Serves the page of one or two models on 127.0.0.1; the standard library is enough."""

import http.server
import importlib.resources
import json
import re
from collections.abc import Sequence
from typing import Any

from ldm_jax.commands.demo.studio import Studio
from ldm_jax.commands.demo.turns import Turns
from ldm_jax.files.errors import is_out_of_memory
from ldm_jax.files.formats.structured import parse_json

HOST = "127.0.0.1"
MAX_BODY = 32 * 2**20
# Digits of a length; Python reads no numbers of thousands of them.
_LENGTH = re.compile(r"[0-9]{1,12}")


def open_models(directories: Sequence[str], port: int):
    """Loads models and makes the server of their page.

    Args:
      directories: of one diffusion model, or of two that take the same inputs.
      port: as `make_server`.

    Raises:
      ValueError: one is not a diffusion model, their inputs differ, or the port is
        in use.
    """
    turns = Turns()
    studios = [Studio(directory, turns) for directory in directories]
    for directory, studio in zip(directories[1:], studios[1:], strict=True):
        if studio.inputs != studios[0].inputs:
            takes = [", ".join(s.inputs) or "none" for s in (studios[0], studio)]
            raise ValueError(
                f"models side by side must take the same inputs: {directories[0]} "
                f"takes {takes[0]}, {directory} {takes[1]}; give a model of the same "
                "kind of condition."
            )
    return make_server(studios, turns, port)


def make_server(
    studios: Sequence[Studio], turns: Turns, port: int
) -> http.server.ThreadingHTTPServer:
    """Makes the server; `serve_forever` of it answers requests.

    Args:
      studios: the models.
      turns: of all requests.
      port: 0 takes any that is free.

    Raises:
      ValueError: the port is in use.
    """
    page = importlib.resources.files("ldm_jax.reports") / "demo.html"
    values = dict(studios=studios, turns=turns, page=page.read_bytes())
    handler = type("Handler", (_Handler,), values)
    try:
        return http.server.ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise ValueError(
            f"--port must be free: got {port} ({error.strerror}); give another one, "
            "or 0 for any."
        ) from error


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves the page and answers its four kinds of request."""

    studios: Sequence[Studio]
    turns: Turns
    page: bytes

    def do_GET(self) -> None:
        """Answers the page, the models' descriptions or the state of the queue."""
        if not self._is_local():
            return
        if self.path == "/":
            self._send(200, self.page, "text/html; charset=utf-8")
        elif self.path == "/models":
            self._answer(
                200, {"models": [studio.describe() for studio in self.studios]}
            )
        elif self.path == "/state":
            self._answer(200, self.turns.state())
        else:
            self._answer(404, {"error": "there is no such page"})

    def do_POST(self) -> None:
        """Answers with samples or with a reconstruction; errors in one line."""
        if not self._is_local():
            return
        actions = {"/sample": "sample", "/reconstruct": "reconstruct"}
        # Pages of other sites cannot send this type without asking first.
        is_json = self.headers.get("Content-Type", "") == "application/json"
        length = self.headers.get("Content-Length", "")
        if self.path not in actions or not is_json or not _LENGTH.fullmatch(length):
            self._answer(400, {"error": "a request is a JSON text for /sample"})
        elif int(length) > MAX_BODY:
            self._answer(413, {"error": f"an upload may have {MAX_BODY >> 20} MiB"})
            self.close_connection = True
        else:
            self._act(actions[self.path], self.rfile.read(int(length)))

    def _act(self, action: str, body: bytes) -> None:
        """Answers with what a method of the requested model returns."""
        try:
            request = parse_json(body, "the request")
            for name in ("inputs", "sampling"):
                if not isinstance(request.get(name, {}), dict):
                    raise ValueError(f"{name} must be an object of names and values.")
            place = request.get("model", 0)
            if type(place) is not int or place not in range(len(self.studios)):
                raise ValueError(
                    f"model must be in 0..{len(self.studios) - 1}: got {place!r}."
                )
            self._answer(200, getattr(self.studios[place], action)(request))
        except Exception as error:
            if is_out_of_memory(error):
                message = "the memory is not enough: take fewer or smaller images"
            elif isinstance(error, ValueError | TypeError | OSError):
                message = str(error)
            else:
                raise
            self._answer(400, {"error": message})

    def _is_local(self) -> bool:
        """Refuses requests with another Host header, which a foreign page may send."""
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host in (HOST, "localhost"):
            return True
        self._answer(403, {"error": f"open this page as {HOST}"})
        return False

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        self._send(code, json.dumps(content).encode(), "application/json")

    def _send(self, code: int, content: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        policy = "default-src 'none'; img-src data: blob:; connect-src 'self'; "
        policy += "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
        self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing, so that the terminal shows only the address."""
