"""A real llama.cpp server says the same through the gateway as without it, whichever way it is asked."""

from collections.abc import Iterator

import openai
import pytest

import gateway as programs
from ntonix_v1 import Socket, deltas, open_socket, text_of

PROMPTS = ["hello", "the rocket 🚀 flies", "日本語で答えてください", "a" * 300]
TOKENS = 200


@pytest.fixture(scope="module")
def direct() -> Iterator[openai.OpenAI]:
    """The backend itself."""
    with programs.llama_cpp() as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def url(direct: openai.OpenAI) -> Iterator[str]:
    """A worker in front of it, which calls its model by another name."""
    backend = {"name": "llama", "url": str(direct.base_url).removesuffix("/v1/")}
    target = {"pool": "llama", "model": "tiny"}
    routes = [{"model": "house-model", "targets": [target]}, {"model": "ti*", "targets": [{"pool": "llama"}]}]
    with programs.gateway({"pools": [{"name": "llama", "backends": [backend]}], "routes": routes}) as serving:
        yield serving.url


@pytest.fixture(scope="module")
def through(url: str) -> Iterator[openai.OpenAI]:
    """A client of the worker."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def socket(url: str) -> Iterator[Socket]:
    with open_socket(url, None) as socket:
        assert socket.receive()["t"] == "ready"
        yield socket


def question(prompt: str, model: str, **more: object) -> dict:
    messages = [{"role": "user", "content": prompt}]
    return {"model": model, "messages": messages, "max_tokens": TOKENS, "temperature": 0, **more}


def expected(direct: openai.OpenAI, prompt: str) -> openai.types.chat.ChatCompletion:
    answer = direct.chat.completions.create(**question(prompt, "tiny"))
    assert len(answer.choices[0].message.content) > TOKENS
    return answer


@pytest.mark.parametrize("prompt", PROMPTS)
def test_an_answer_that_is_not_streamed_is_the_same(direct: openai.OpenAI, through: openai.OpenAI, prompt: str) -> None:
    told = expected(direct, prompt)
    answer = through.chat.completions.create(**question(prompt, "house-model"))
    assert answer.choices[0].message.content == told.choices[0].message.content
    assert answer.choices[0].finish_reason == told.choices[0].finish_reason
    assert answer.usage.total_tokens == told.usage.total_tokens


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_streamed_answer_is_the_same_event_by_event(
    direct: openai.OpenAI, through: openai.OpenAI, prompt: str
) -> None:
    pieces = {}
    for client, model in ((direct, "tiny"), (through, "house-model")):
        stream = client.chat.completions.create(**question(prompt, model, stream=True))
        pieces[model] = [choice.delta.content or "" for chunk in stream for choice in chunk.choices]
    assert "".join(pieces["house-model"]) == expected(direct, prompt).choices[0].message.content
    assert pieces["house-model"] == pieces["tiny"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_stream_on_a_websocket_is_the_same(direct: openai.OpenAI, socket: Socket, prompt: str) -> None:
    socket.create("a", question(prompt, "house-model", stream=True))
    frames = socket.until("a")["a"]
    told = expected(direct, prompt)
    assert text_of(frames) == told.choices[0].message.content
    assert frames[-1]["t"] == "done"
    assert frames[-1]["usage"]["completion_tokens"] == told.usage.completion_tokens


def test_an_answer_on_a_websocket_that_is_not_streamed_is_the_same(direct: openai.OpenAI, socket: Socket) -> None:
    socket.create("a", question(PROMPTS[0], "house-model"))
    [whole] = deltas(socket.until("a")["a"])
    assert whole["choices"][0]["message"]["content"] == expected(direct, PROMPTS[0]).choices[0].message.content


def test_streams_that_share_a_websocket_do_not_mix(direct: openai.OpenAI, socket: Socket) -> None:
    for number, prompt in enumerate(PROMPTS):
        socket.create(str(number), question(prompt, "house-model", stream=True))
    frames = socket.until(*map(str, range(len(PROMPTS))))
    for number, prompt in enumerate(PROMPTS):
        assert text_of(frames[str(number)]) == expected(direct, prompt).choices[0].message.content


def test_legacy_completions_are_the_same(direct: openai.OpenAI, through: openai.OpenAI) -> None:
    asked = {"prompt": "once upon", "max_tokens": TOKENS, "temperature": 0}
    told = direct.completions.create(model="tiny", **asked).choices[0].text
    assert through.completions.create(model="house-model", **asked).choices[0].text == told
    stream = through.completions.create(model="house-model", stream=True, **asked)
    assert "".join(choice.text for chunk in stream for choice in chunk.choices) == told


def test_a_question_that_the_backend_refuses_is_refused_with_its_words(through: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        through.chat.completions.create(**question("long " * 3000, "house-model"))
    assert "context" in raised.value.message


def test_a_glob_lists_the_models_that_the_backend_reports(through: openai.OpenAI) -> None:
    assert {"house-model", "tiny"} <= {model.id for model in through.models.list()}
