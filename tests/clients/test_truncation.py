"""What broke off is never taken for whole: openai-python in each of its ways to stream, and a reader of bare events."""

import asyncio
import http.client
import json

import openai
import pytest

from gateway import BROKEN, KEYS, Gateway

HELLO = [{"role": "user", "content": "hello"}]
WITHIN_S = 30

pytestmark = pytest.mark.parametrize(("model", "code"), BROKEN.items())


def options(gateway: Gateway) -> dict:
    return {"base_url": gateway.api, "api_key": KEYS["research"], "max_retries": 0, "timeout": WITHIN_S}


def text_of(chunks: list) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_create_raises_after_the_last_token(gateway: Gateway, model: str, code: str) -> None:
    chunks = []
    with openai.OpenAI(**options(gateway)) as client, pytest.raises(openai.APIError) as raised:
        for chunk in client.chat.completions.create(model=model, messages=HELLO, stream=True):
            chunks.append(chunk)
    assert text_of(chunks) == "t0 t1 t2 "
    assert str(raised.value.code) == code


def test_the_stream_helper_raises_and_has_no_final_completion(gateway: Gateway, model: str, code: str) -> None:
    with openai.OpenAI(**options(gateway)) as client:
        with pytest.raises(openai.APIError) as raised, client.chat.completions.stream(model=model, messages=HELLO) as stream:
            stream.until_done()
    assert str(raised.value.code) == code


def test_the_asynchronous_client_raises_both_ways(gateway: Gateway, model: str, code: str) -> None:
    async def created(client: openai.AsyncOpenAI) -> None:
        async for _ in await client.chat.completions.create(model=model, messages=HELLO, stream=True):
            pass

    async def helped(client: openai.AsyncOpenAI) -> None:
        async with client.chat.completions.stream(model=model, messages=HELLO) as stream:
            await stream.get_final_completion()

    async def run() -> list[BaseException]:
        async with openai.AsyncOpenAI(**options(gateway)) as client:
            return await asyncio.gather(created(client), helped(client), return_exceptions=True)

    for raised in asyncio.run(run()):
        assert isinstance(raised, openai.APIError), raised
        assert str(raised.code) == code


def test_a_reader_of_bare_events_finds_an_error_last_and_no_done(gateway: Gateway, model: str, code: str) -> None:
    host = gateway.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=WITHIN_S)
    body = json.dumps({"model": model, "messages": HELLO, "stream": True})
    headers = {"authorization": f"Bearer {KEYS['research']}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    response = connection.getresponse()
    lines = response.read().decode().splitlines()
    connection.close()
    payloads = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    assert response.status == 200
    assert "[DONE]" not in payloads
    assert str(json.loads(payloads[-1])["error"]["code"]) == code
    assert not any(line.startswith("event:") for line in lines)
