# SPDX-License-Identifier: Apache-2.0
"""The page is served to this machine only; requests are bounded."""

import dataclasses
import http.client
import json
import threading

import pytest

import ldm_jax
from ldm_jax import cli
from ldm_jax.commands.demo.server import HOST, MAX_BODY, make_server, open_models
from ldm_jax.commands.demo.turns import Turns
from ldm_jax.conditions.registry import make_condition

JSON = {"Content-Type": "application/json"}


class Echo:
    """Stands for a model: answers with what it was asked."""

    def describe(self):
        return {"kind": "echo"}

    def sample(self, request):
        if "refuse" in request:
            raise ValueError("num must be less.")
        if "large" in request:
            raise MemoryError
        return {"asked": request}

    reconstruct = sample


@pytest.fixture(scope="module")
def port():
    with make_server([Echo(), Echo()], Turns(), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def ask(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def test_the_page_loads_nothing_from_elsewhere(port):
    status, page, headers = ask(port, "GET", "/")
    assert status == 200 and b"ldm_jax demo" in page
    assert b"http://" not in page and b"https://" not in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_requests_are_answered(port):
    assert json.loads(ask(port, "GET", "/models")[1]) == {
        "models": [{"kind": "echo"}] * 2
    }
    assert json.loads(ask(port, "GET", "/state")[1]) == {"waiting": 0, "seconds": 0}
    status, answer, _ = ask(port, "POST", "/sample", '{"num": 3}', JSON)
    assert status == 200 and json.loads(answer) == {"asked": {"num": 3}}


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "message"),
    [
        ("GET", "/../etc/passwd", None, {}, 404, "no such page"),
        ("POST", "/sample", "{", JSON, 400, "the request"),
        ("POST", "/sample", '{"refuse": 1}', JSON, 400, "num must be less"),
        ("POST", "/sample", "{}", {"Content-Type": "text/plain"}, 400, "JSON"),
        ("POST", "/models", "{}", JSON, 400, "JSON"),
        ("POST", "/sample", '{"model": 2}', JSON, 400, "model must be in 0..1"),
        ("POST", "/sample", '{"model": []}', JSON, 400, "model must be in 0..1"),
        ("POST", "/sample", '{"model": false}', JSON, 400, "model must be in 0..1"),
        ("POST", "/sample", '{"inputs": []}', JSON, 400, "inputs must be an object"),
        ("POST", "/sample", '{"sampling": [1]}', JSON, 400, "sampling must be an obj"),
        ("POST", "/sample", '{"large": 1}', JSON, 400, "the memory is not enough"),
        ("POST", "/sample", "[]", JSON, 400, "the request"),
        ("GET", "/", None, {"Host": "evil.example:80"}, 403, HOST),
    ],
)
def test_other_requests_are_refused(port, method, path, body, headers, status, message):
    got, answer, _ = ask(port, method, path, body, headers)
    assert got == status and message in json.loads(answer)["error"]


@pytest.mark.parametrize(
    ("length", "status"), [(str(MAX_BODY + 1), 413), ("9" * 5000, 400), ("-1", 400)]
)
def test_a_large_upload_is_refused_before_it_is_read(port, length, status):
    headers = {**JSON, "Content-Length": length}
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    connection.putrequest("POST", "/sample")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == status


def test_a_port_in_use_is_one_line(port, capsys):
    assert cli.main(["demo", f"--port={port}"]) == 2
    error = capsys.readouterr().err
    assert "--port must be free" in error and "Traceback" not in error


def test_a_first_stage_alone_has_no_demo(tmp_path, capsys):
    assert cli.main(["demo", f"--model={tmp_path}"]) == 2
    assert "is not a model directory" in capsys.readouterr().err


def test_models_side_by_side_take_the_same_inputs(tmp_path):
    """digits takes a class; a copy of it without a condition is refused next to it."""
    model, params = ldm_jax.load("digits")
    plain = dataclasses.replace(model, conditioner=make_condition("none"))
    params = {name: p for name, p in params.items() if name != "conditioner"}
    ldm_jax.save(str(tmp_path / "plain"), plain, params, image_size=16)
    with pytest.raises(ValueError, match=r"takes class_label, .*plain none"):
        open_models(["digits", str(tmp_path / "plain")], 0)
