"""Starts the real programs on free ports, tells where they listen, and stops them.

As a program it puts a worker in front of mock backends, runs a command with NTONIX_URL, NTONIX_KEYS (JSON, by tenant) and
NTONIX_BROKEN (JSON, codes by model) in its environment, and ends as the command ended: `python gateway.py node --test`.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
START_WITHIN_S = 30
STOP_WITHIN_S = 15

# What the mock backend fails at, each for the model of that name.
FAULTS = ["cut", "silent-end", "stream-error", "garbage", "status-400", "status-404", "status-500"]

# The same with a script of tests/faults.
SCRIPTS = {"reset": "B05", "error-then-done": "error-then-done"}

# The models whose streams break off after three tokens, and the code that the client is told.
BROKEN = {
    "cut": "upstream_reset",
    "reset": "upstream_reset",
    "silent-end": "upstream_reset",
    "stream-error": "broken",
    "error-then-done": "500",
}

# A key for each tenant; the tests need no secret ones.
KEYS = {tenant: f"ntx_{tenant:0>43}" for tenant in ("research", "narrow", "hasty")}


class Program:
    """One process, from its start to its stop."""

    def __init__(self, *command: str | Path, folder: Path, env: dict[str, str] | None = None) -> None:
        self.name = Path(command[0]).name
        self.log = folder / f"{self.name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )

    def wait_for(self, sign: str) -> str:
        """The first line of the log with `sign` in it."""
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline:
            text = self.log.read_text(errors="replace")
            # The last line may not be whole yet.
            for line in text.splitlines(keepends=True):
                if sign in line and line.endswith("\n"):
                    return line
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{text}")
            time.sleep(0.02)
        raise TimeoutError(f"{self.name} did not say {sign!r}:\n{self.log.read_text(errors='replace')}")

    def wait_until_open(self, port: int) -> None:
        """Waits until a program that does not say so takes connections."""
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} does not listen:\n{self.log.read_text(errors='replace')}")

    def addresses(self, sign: str) -> dict[str, str]:
        """The fields of the JSON log line that says where the program listens."""
        return json.loads(self.wait_for(sign))

    def stop(self) -> int:
        """Asks it to end, makes it end, and says with which code it did."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode


@dataclass(frozen=True)
class Gateway:
    """A worker that serves."""

    # Where clients go, without the "/v1".
    url: str
    pid: int
    # The mock behind it.
    mock_url: str

    @property
    def api(self) -> str:
        """What SDKs call the base URL."""
        return f"{self.url}/v1"


@dataclass(frozen=True)
class Planes:
    """A control plane without a configuration, a worker that follows it, and a mock backend."""

    admin: str
    worker: str
    mock_url: str


def unused_port() -> int:
    """A port for a program that cannot pick one itself."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def running(folder: Path, *command: str | Path) -> Iterator[Program]:
    """A program that is stopped at the end of the block."""
    program = Program(*command, folder=folder)
    try:
        yield program
    finally:
        program.stop()


@contextlib.contextmanager
def mock_llm(folder: Path, *flags: str) -> Iterator[str]:
    """A mock backend; gives its URL."""
    with running(folder, PROGRAMS / "mock-llm", "--listen", "127.0.0.1:0", *flags) as mock:
        yield mock.wait_for("listens on").split()[-1]


@contextlib.contextmanager
def llama_cpp() -> Iterator[str]:
    """A real llama.cpp server with a model of random weights, named "tiny"; gives its URL."""
    with tempfile.TemporaryDirectory(prefix="ntonix-llama-") as name:
        server = Path(__file__).parent / "llama" / "server.py"
        with running(Path(name), sys.executable, server, name) as program:
            yield program.wait_for("llama.cpp listens on").split()[-1]


@contextlib.contextmanager
def worker(folder: Path, *origin: str | Path) -> Iterator[tuple[str, int]]:
    """A worker; gives its URL and its process id."""
    flags = ["--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0", "--drain", "5s", "--log-format", "json"]
    state = ["--state-dir", folder / "worker", "--threads", "2"]
    with running(folder, PROGRAMS / "ntonix-data-plane", *origin, *flags, *state) as program:
        listen = program.addresses("Worker serves")["listen"]
        yield f"http://{listen}", program.process.pid


@contextlib.contextmanager
def gateway(config: dict | None = None) -> Iterator[Gateway]:
    """A worker with a file configuration: the given one, or `example_config` in front of a mock."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ntonix-")))
        scripts = [f"{model}={ROOT / 'tests' / 'faults' / name}.script" for model, name in SCRIPTS.items()]
        mock_url = stack.enter_context(mock_llm(folder, "--faults", ",".join([*FAULTS, *scripts])))
        file = folder / "config.json"
        file.write_text(json.dumps(config or example_config(mock_url)))
        url, pid = stack.enter_context(worker(folder, "--config", file))
        yield Gateway(url, pid, mock_url)


@contextlib.contextmanager
def planes() -> Iterator[Planes]:
    """Both planes apart, connected."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ntonix-")))
        mock_url = stack.enter_context(mock_llm(folder))
        ports = [flag for door in ("--admin", "--sync", "--ops") for flag in (door, "127.0.0.1:0")]
        flags = ["--state-dir", folder / "control-plane", "--drain", "5s", "--log-format", "json"]
        program = stack.enter_context(running(folder, PROGRAMS / "ntonix-control-plane", *ports, *flags))
        addresses = program.addresses("Control plane listens")
        url, _ = stack.enter_context(worker(folder, "--control-plane", f"http://{addresses['sync']}"))
        yield Planes(addresses["admin"], url, mock_url)


def example_config(mock_url: str) -> dict:
    """A route that works, one for each fault, and three tenants: one may do all, one little, one seldom."""
    return {
        "pools": [
            {"name": "mock", "backends": [{"name": "one", "url": mock_url}]},
            # A pool of their own, so that the faults cannot open the breaker of the others.
            {"name": "faulty", "backends": [{"name": "one", "url": mock_url}], "breaker": {"failures": 1000}},
            # Asked and found away each time, however long the tests take: neither its health nor its breaker takes it out.
            {
                "name": "gone",
                "backends": [{"name": "one", "url": "http://127.0.0.1:1"}],
                "health": {"every": "1h"},
                "breaker": {"failures": 1000},
            },
        ],
        "routes": [
            {"model": "mock-model", "aliases": ["mock"], "targets": [{"pool": "mock"}]},
            *({"model": fault, "targets": [{"pool": "faulty"}], "retries": 0} for fault in [*FAULTS, *SCRIPTS]),
            {"model": "gone", "targets": [{"pool": "gone"}], "retries": 0},
        ],
        "tenants": [
            {"name": "research"},
            {"name": "narrow", "models": ["mock-*"]},
            {"name": "hasty", "limits": {"requests_per_minute": 60}},
        ],
        "keys": [
            {"name": tenant, "tenant": tenant, "digest": f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"}
            for tenant, key in KEYS.items()
        ],
    }


def main(command: list[str]) -> int:
    """Runs a command beside a gateway."""
    with gateway() as serving:
        told = {"NTONIX_URL": serving.url, "NTONIX_KEYS": json.dumps(KEYS), "NTONIX_BROKEN": json.dumps(BROKEN)}
        return subprocess.run(command, env={**os.environ, **told}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
