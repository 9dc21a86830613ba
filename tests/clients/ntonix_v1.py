"""Just enough of an `ntonix.v1` client for the tests: frames out, frames in by stream."""

import contextlib
import json
from collections.abc import Iterator

from websockets.sync.client import ClientConnection, connect

PROTOCOL = "ntonix.v1"
ANSWER_WITHIN_S = 30


@contextlib.contextmanager
def open_socket(url: str, key: str | None) -> Iterator["Socket"]:
    """A socket to the worker at `url`, closed at the end of the block."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    address = url.replace("http", "ws", 1) + "/v1/ws"
    # Deltas are small, but one event of a backend may be large.
    options = {"max_size": 16 * 2**20, "proxy": None}
    with connect(address, subprotocols=[PROTOCOL], additional_headers=headers, **options) as connection:
        yield Socket(connection)


class Socket:
    """One WebSocket with many streams."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, **frame: object) -> None:
        self.connection.send(json.dumps(frame))

    def receive(self) -> dict:
        """The next frame, whichever stream it belongs to."""
        return json.loads(self.connection.recv(timeout=ANSWER_WITHIN_S))

    def create(self, stream: str, body: dict, op: str = "chat.completions", **more: object) -> None:
        self.send(t="create", id=stream, op=op, body=body, **more)

    def until(self, *streams: str) -> dict[str, list[dict]]:
        """The frames of each of these streams, until all of them have ended."""
        frames: dict[str, list[dict]] = {stream: [] for stream in streams}
        running = set(streams)
        while running:
            frame = self.receive()
            if frame.get("id") in frames:
                frames[frame["id"]].append(frame)
                if frame["t"] in ("done", "error"):
                    running.discard(frame["id"])
        return frames


def deltas(frames: list[dict]) -> Iterator[dict]:
    """The objects that the backend sent, in order; checks that none is missing."""
    for seq, frame in enumerate(frame for frame in frames if frame["t"] == "delta"):
        assert frame["seq"] == seq, frame
        yield frame["d"]


def text_of(frames: list[dict]) -> str:
    """What a streamed chat said."""
    choices = (choice for delta in deltas(frames) for choice in delta["choices"])
    return "".join(choice["delta"].get("content") or "" for choice in choices)
