"""curl, unchanged: bytes as they are on the wire, and exit codes that scripts can trust."""

import json
import subprocess

import pytest

from gateway import KEYS, Gateway

TIME_LIMIT_S = "30"
EXIT_OK, EXIT_HTTP_ERROR = 0, 22


def curl(gateway: Gateway, path: str, body: dict | None = None, *flags: str) -> subprocess.CompletedProcess[str]:
    command = ["curl", "--silent", "--max-time", TIME_LIMIT_S, *flags]
    command += ["--header", f"authorization: Bearer {KEYS['research']}"]
    if body is not None:
        command += ["--header", "content-type: application/json", "--data", json.dumps(body)]
    return subprocess.run([*command, gateway.url + path], capture_output=True, text=True, check=False)


def chat(model: str = "mock-model", **more: object) -> dict:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, **more}


CHAT = "/v1/chat/completions"


def test_an_error_is_exit_code_22_and_its_body_can_still_be_read(gateway: Gateway) -> None:
    done = curl(gateway, CHAT, chat("no-such-model"), "--fail-with-body")
    assert done.returncode == EXIT_HTTP_ERROR
    assert json.loads(done.stdout)["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("model", ["cut", "silent-end"])
def test_a_stream_that_breaks_off_ends_with_an_error_event_and_without_done(gateway: Gateway, model: str) -> None:
    done = curl(gateway, CHAT, chat(model, stream=True), "--no-buffer")
    *_, last = done.stdout.strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_reset"
    assert "[DONE]" not in done.stdout


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_a_stream_comes_event_by_event_and_ends_with_done(gateway: Gateway, version: str) -> None:
    done = curl(gateway, CHAT, chat(stream=True), "--no-buffer", "--fail", version)
    assert done.returncode == EXIT_OK
    events = done.stdout.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events[:-2]]
    assert "".join(delta.get("content", "") for delta in deltas) == "t0 t1 t2 t3 t4 "


def test_the_first_token_is_there_before_the_last_is_made(gateway: Gateway) -> None:
    body = chat(stream=True) | {"max_tokens": 1_000_000, "mock_pause_us": 20_000}
    command = ["curl", "--silent", "--no-buffer", "--max-time", TIME_LIMIT_S]
    command += ["--header", f"authorization: Bearer {KEYS['research']}", "--json", json.dumps(body)]
    with subprocess.Popen([*command, gateway.url + CHAT], stdout=subprocess.PIPE, text=True) as process:
        got = ""
        # Without streaming it would be hours until the first byte.
        while "t2 " not in got:
            got += process.stdout.readline()
        process.terminate()
    assert "[DONE]" not in got


def test_a_unary_answer_has_its_length_and_an_id(gateway: Gateway) -> None:
    done = curl(gateway, CHAT, chat(), "--fail", "--include")
    head, body = done.stdout.replace("\r\n", "\n").split("\n\n", 1)
    headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])
    assert int(headers["content-length"]) == len(body)
    assert headers["x-request-id"]
    assert json.loads(body)["choices"][0]["message"]["content"] == "t0 t1 t2 t3 t4 "


def test_an_id_of_the_client_is_kept(gateway: Gateway) -> None:
    done = curl(gateway, "/v1/models", None, "--fail", "--include", "--header", "x-request-id: mine-42")
    assert "x-request-id: mine-42" in done.stdout.lower()
