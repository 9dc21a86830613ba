"""Signs of life and proxies in between: what is no event must not upset a real client, nor be gathered on its way."""

import contextlib
import http.client
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

import gateway as programs
from bench import nginx

HELLO = [{"role": "user", "content": "hello"}]
# Between two tokens there is time for two heartbeats.
PAUSE_US = 2_500_000
STEERING = {"max_tokens": 3, "extra_body": {"mock_pause_us": PAUSE_US}}
TEXT = "t0 t1 t2 "


@pytest.fixture(scope="module")
def slow() -> Iterator[programs.Gateway]:
    """A gateway whose streams have a heartbeat each second, in front of a mock that is asked for long pauses."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ntonix-")))
        mock_url = stack.enter_context(programs.mock_llm(folder))
        config = {
            "pools": [{"name": "mock", "backends": [{"name": "one", "url": mock_url}]}],
            "routes": [{"model": "mock-model", "targets": [{"pool": "mock"}], "heartbeat": "1s"}],
        }
        yield stack.enter_context(programs.gateway(config))


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def test_the_stream_has_heartbeats_of_one_line_end(slow: programs.Gateway) -> None:
    """The bytes that the other tests are about."""
    connection = http.client.HTTPConnection(slow.url.removeprefix("http://"), timeout=60)
    body = (
        '{"model":"mock-model","stream":true,"messages":[{"role":"user","content":"hello"}],'
        f'"max_tokens":3,"mock_pause_us":{PAUSE_US}}}'
    )
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    text = connection.getresponse().read().decode()
    assert text.count("\n\n:\n") >= 2, text
    assert ":\n\n" not in text, "an event that is empty upsets clients that have seen an id"


def test_item_35_openai_python_reads_over_heartbeats(slow: programs.Gateway) -> None:
    with client_of(slow.url) as client:
        chunks = client.chat.completions.create(model="mock-model", messages=HELLO, stream=True, **STEERING)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
        with client.chat.completions.stream(model="mock-model", messages=HELLO, **STEERING) as stream:
            stream.until_done()
            assert stream.get_final_completion().choices[0].message.content == TEXT


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_item_38_through_nginx_with_its_defaults_events_arrive_one_by_one(slow: programs.Gateway) -> None:
    """nginx gathers answers unless these say otherwise: X-Accel-Buffering does."""
    with (
        tempfile.TemporaryDirectory(prefix="ntonix-") as folder,
        nginx(Path(folder), slow.url, "") as url,
        client_of(url) as client,
    ):
        chunks = client.chat.completions.create(model="mock-model", messages=HELLO, stream=True, **STEERING)
        came = [time.monotonic() for chunk in chunks if chunk.choices[0].delta.content]
    assert len(came) == 3
    # Gathered, they would come together. Each pause is 2.5 s; a machine under load may take some of it away.
    assert came[-1] - came[0] > 2.5, came
