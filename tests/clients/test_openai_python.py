"""openai-python, unchanged, sees in the gateway what it sees in the OpenAI API."""

from collections.abc import Callable, Iterator

import openai
import pytest

from gateway import KEYS, Gateway

HELLO = [{"role": "user", "content": "hello"}]
TOKENS = 5
TEXT = "".join(f"t{number} " for number in range(TOKENS))


def client_of(gateway: Gateway, tenant: str = "research", **options: object) -> openai.OpenAI:
    options = {"max_retries": 0, "timeout": 30, **options}
    return openai.OpenAI(base_url=gateway.api, api_key=KEYS[tenant], **options)


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with client_of(gateway) as client:
        yield client


def ask(client: openai.OpenAI, model: str = "mock-model", **more: object) -> object:
    return client.chat.completions.create(model=model, messages=HELLO, max_tokens=TOKENS, **more)


# --- what fails


@pytest.mark.parametrize(
    ("model", "error", "status", "code"),
    [
        ("no-such-model", openai.NotFoundError, 404, "model_not_found"),
        ("status-400", openai.BadRequestError, 400, "mock"),
        ("status-404", openai.NotFoundError, 404, "mock"),
        ("status-500", openai.InternalServerError, 500, "mock"),
        ("garbage", openai.InternalServerError, 502, "upstream_protocol"),
        ("gone", openai.InternalServerError, 502, "upstream_connect"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_status_is_the_exception_of_its_class(
    client: openai.OpenAI, model: str, error: type[openai.APIStatusError], status: int, code: str, stream: bool
) -> None:
    with pytest.raises(error) as raised:
        ask(client, model, stream=stream)
    assert (raised.value.status_code, raised.value.code) == (status, code)
    assert raised.value.request_id


def test_a_wrong_parameter_is_a_bad_request_that_names_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, n=0)
    assert (raised.value.code, raised.value.param) == ("bad_request", "n")


def test_an_unknown_key_is_an_authentication_error(gateway: Gateway) -> None:
    with openai.OpenAI(base_url=gateway.api, api_key="ntx_nobody", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as raised:
            ask(client)
    assert (raised.value.status_code, raised.value.code) == (401, "invalid_api_key")


def test_a_model_that_the_tenant_may_not_use_is_a_permission_error(gateway: Gateway) -> None:
    with client_of(gateway, "narrow") as client, pytest.raises(openai.PermissionDeniedError) as raised:
        ask(client, "gone")
    assert (raised.value.status_code, raised.value.code) == (403, "forbidden")


def test_a_spent_limit_is_a_rate_limit_error_and_then_one_retry_after_the_time_it_names(gateway: Gateway) -> None:
    statuses: list[int] = []
    with client_of(gateway, "hasty", max_retries=2) as client:
        note: Callable[[object], None] = lambda response: statuses.append(response.status_code)
        client._client.event_hooks["response"] = [note]
        # The limit is 60 a minute, all of which may come at once; one comes back each second.
        for _ in range(200):
            statuses.clear()
            answer = ask(client)
            if len(statuses) > 1:
                break
    assert statuses == [429, 200]
    assert answer.choices[0].message.content == TEXT

    with client_of(gateway, "hasty") as impatient, pytest.raises(openai.RateLimitError) as raised:
        for _ in range(200):
            ask(impatient)
    assert raised.value.code == "rate_limited"
    assert raised.value.response.headers["retry-after"] == "1"


# --- what works


def test_a_chat_that_is_not_streamed(client: openai.OpenAI) -> None:
    answer = ask(client)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == TOKENS
    assert answer._request_id


def test_a_chat_that_is_streamed_has_no_usage_unless_asked(client: openai.OpenAI) -> None:
    chunks = list(ask(client, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_a_chat_that_is_streamed_ends_with_its_usage_when_asked(client: openai.OpenAI) -> None:
    *chunks, last = ask(client, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert last.choices == []
    assert last.usage.completion_tokens == TOKENS


def test_the_stream_helper_gives_the_whole_completion(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="mock", messages=HELLO, max_tokens=TOKENS) as stream:
        stream.until_done()
    assert stream.get_final_completion().choices[0].message.content == TEXT


def test_a_stream_that_is_left_early_leaves_the_client_usable(client: openai.OpenAI) -> None:
    with ask(client, stream=True, extra_body={"max_tokens": 1_000_000, "mock_pause_us": 1000}) as stream:
        next(iter(stream))
    assert ask(client).choices[0].message.content == TEXT


def test_legacy_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="mock-model", prompt="hello", max_tokens=TOKENS)
    assert whole.choices[0].text == TEXT
    chunks = client.completions.create(model="mock-model", prompt="hello", max_tokens=TOKENS, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="mock-model", input="hello", encoding_format="float")
    assert answer.data[0].embedding == [0.25, -0.5, 1.0]


def test_models_are_those_that_the_tenant_may_use(gateway: Gateway, client: openai.OpenAI) -> None:
    assert {"mock-model", "gone"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("mock-model").id == "mock-model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")
    with client_of(gateway, "narrow") as narrow:
        assert {model.id for model in narrow.models.list()} <= {"mock-model", "mock"}


async def stream_of(client: openai.AsyncOpenAI) -> str:
    stream = await ask(client, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


def test_the_asynchronous_client_runs_many_streams_at_once(gateway: Gateway) -> None:
    import asyncio

    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=gateway.api, api_key=KEYS["research"], max_retries=0) as client:
            return await asyncio.gather(*(stream_of(client) for _ in range(32)))

    assert asyncio.run(run()) == [TEXT] * 32
