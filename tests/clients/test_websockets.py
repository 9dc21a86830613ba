"""Python's `websockets`, unchanged, over `ntonix.v1`: many streams on one socket, each ended alone."""

import base64
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from gateway import KEYS, Gateway
from ntonix_v1 import PROTOCOL, Socket, deltas, open_socket, text_of

TEXT = "t0 t1 t2 t3 t4 "


@pytest.fixture
def socket(gateway: Gateway) -> Iterator[Socket]:
    """A socket that has heard `ready`."""
    with open_socket(gateway.url, KEYS["research"]) as socket:
        assert socket.receive()["t"] == "ready"
        yield socket


def chat(model: str = "mock-model", stream: bool = True, **more: object) -> dict:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    return body | {"stream": stream} | more


def address(gateway: Gateway) -> str:
    return gateway.url.replace("http", "ws", 1) + "/v1/ws"


# --- what fails


def test_a_handshake_without_a_key_is_401(gateway: Gateway) -> None:
    with pytest.raises(InvalidStatus) as raised, open_socket(gateway.url, None):
        pass
    assert raised.value.response.status_code == 401


@pytest.mark.parametrize("offered", [None, ["ntonix.v2"]])
def test_a_handshake_without_the_subprotocol_is_400(gateway: Gateway, offered: list[str] | None) -> None:
    headers = {"authorization": f"Bearer {KEYS['research']}"}
    with (
        pytest.raises(InvalidStatus) as raised,
        connect(address(gateway), subprotocols=offered, additional_headers=headers, proxy=None),
    ):
        pass
    assert raised.value.response.status_code == 400


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (chat("no-such-model"), 404, "model_not_found"),
        (chat("status-500"), 500, "mock"),
        (chat("gone"), 502, "upstream_connect"),
        (chat(n=0), 400, "bad_request"),
    ],
)
def test_a_failure_belongs_to_its_stream_and_the_next_one_works(
    socket: Socket, body: dict, status: int, code: str
) -> None:
    socket.create("bad", body)
    [error] = socket.until("bad")["bad"]
    assert (error["t"], error["status"], error["error"]["code"]) == ("error", status, code)
    socket.create("good", chat())
    assert text_of(socket.until("good")["good"]) == TEXT


@pytest.mark.parametrize(("model", "code"), [("cut", "upstream_reset"), ("silent-end", "upstream_reset"), ("stream-error", "broken")])
def test_a_stream_that_breaks_off_ends_in_an_error_frame_after_its_last_token(
    socket: Socket, model: str, code: str
) -> None:
    socket.create("a", chat(model))
    frames = socket.until("a")["a"]
    assert text_of(frames) == "t0 t1 t2 "
    assert (frames[-1]["t"], frames[-1]["error"]["code"]) == ("error", code)


def test_an_unknown_frame_is_told_and_the_socket_lives(socket: Socket) -> None:
    socket.send(t="attach", id="a1", stream="st_1", after=3)
    answer = socket.receive()
    assert (answer["t"], answer["error"]["code"]) == ("error", "unknown_frame")
    socket.send(t="ping", n=7)
    assert socket.receive() == {"t": "pong", "n": 7}


@pytest.mark.parametrize(("frame", "code"), [(b"\x00\x01", 1003), ("no JSON", 4400)])
def test_a_frame_that_is_none_closes_the_socket_with_its_code(socket: Socket, frame: str | bytes, code: int) -> None:
    socket.connection.send(frame)
    with pytest.raises(ConnectionClosed) as raised:
        socket.receive()
    assert raised.value.rcvd.code == code


# --- what works


def test_many_streams_share_a_socket_and_each_is_whole(socket: Socket) -> None:
    names = [f"s{number}" for number in range(32)]
    for name in names:
        socket.create(name, chat(mock_pause_us=2000))
    frames = socket.until(*names)
    for name in names:
        assert frames[name][0]["t"] == "open"
        assert text_of(frames[name]) == TEXT
        assert frames[name][-1]["t"] == "done"


def test_a_cancelled_stream_ends_alone(socket: Socket) -> None:
    socket.create("long", chat(max_tokens=1_000_000, mock_pause_us=2000))
    socket.create("short", chat(max_tokens=50, mock_pause_us=2000))
    frame = socket.receive()
    while (frame["t"], frame.get("id")) != ("delta", "long"):
        frame = socket.receive()
    socket.send(t="cancel", id="long")
    ended = socket.until("long", "short")
    assert (ended["long"][-1]["t"], ended["long"][-1]["status"]) == ("error", 499)
    assert ended["short"][-1]["t"] == "done"
    # The name is free again.
    socket.create("long", chat())
    assert text_of(socket.until("long")["long"]) == TEXT


def test_an_answer_that_is_not_streamed_is_one_delta(socket: Socket) -> None:
    socket.create("a", chat(stream=False))
    [whole] = deltas(socket.until("a")["a"])
    assert whole["choices"][0]["message"]["content"] == TEXT


def test_embeddings_and_legacy_completions(socket: Socket) -> None:
    socket.create("e", {"model": "mock-model", "input": "hello"}, op="embeddings")
    socket.create("c", {"model": "mock-model", "prompt": "hello", "max_tokens": 5, "stream": True}, op="completions")
    frames = socket.until("e", "c")
    [embedding] = deltas(frames["e"])
    assert embedding["data"][0]["embedding"] == [0.25, -0.5, 1.0]
    assert "".join(delta["choices"][0]["text"] for delta in deltas(frames["c"])) == TEXT


def test_with_credit_flow_no_more_comes_than_was_granted(socket: Socket) -> None:
    socket.send(t="hello", flow="credit")
    assert socket.receive()["flow"] == "credit"
    # One byte: the first delta may overdraw it, then the stream waits.
    socket.create("a", chat(), window=1)
    first = [socket.receive(), socket.receive()]
    assert [frame["t"] for frame in first] == ["open", "delta"]
    socket.send(t="ping", n=1)
    assert socket.receive()["t"] == "pong"
    socket.send(t="window", id="a", add=1_000_000)
    assert text_of(first + socket.until("a")["a"]) == TEXT


def test_a_page_may_show_its_key_as_a_subprotocol(gateway: Gateway) -> None:
    key = base64.urlsafe_b64encode(KEYS["research"].encode()).decode().rstrip("=")
    with connect(address(gateway), subprotocols=[PROTOCOL, f"ntonix.bearer.{key}"], proxy=None) as connection:
        assert connection.subprotocol == PROTOCOL
        assert "ready" in connection.recv(timeout=30)
