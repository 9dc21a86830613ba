"""Configures a gateway, asks it something, and takes the last change back.

    python example.py --admin 127.0.0.1:7070 --worker http://127.0.0.1:8080 --backend http://127.0.0.1:8000
"""

import argparse
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator

import grpc

from ntonix.admin.v1 import config_service_pb2 as configs
from ntonix.admin.v1 import key_service_pb2 as keys
from ntonix.admin.v1 import worker_service_pb2 as workers
from ntonix.admin.v1.config_service_pb2_grpc import ConfigServiceStub
from ntonix.admin.v1.key_service_pb2_grpc import KeyServiceStub
from ntonix.admin.v1.worker_service_pb2_grpc import WorkerServiceStub
from ntonix.config.v1 import config_pb2 as config

# No call may hang for ever; a watch may take this long to see what it waits for.
TIMEOUT_S = 30
# A connected worker takes a new key within a second.
KEY_WITHIN_S = 5


def house(backend: str, *, requests_per_minute: int) -> config.Config:
    """One backend that serves one model to one tenant."""
    return config.Config(
        pools=[config.Pool(name="llama", backends=[config.Backend(name="gpu-1", url=backend)])],
        routes=[config.Route(model="house-model", targets=[config.Target(pool="llama", model="mock-model")])],
        tenants=[
            config.Tenant(
                name="research",
                models=["house-*"],
                limits=config.TenantLimits(requests_per_minute=requests_per_minute),
            )
        ],
    )


def apply(channel: grpc.Channel, wanted: config.Config, message: str) -> configs.Revision:
    """Replaces the whole configuration. With a request id it is safe to send again when the answer got lost."""
    request = configs.ConfigServiceApplyRequest(config=wanted, message=message, request_id=str(uuid.uuid4()))
    answer = ConfigServiceStub(channel).Apply(request, timeout=TIMEOUT_S)
    print(f"revision {answer.revision.number}: {len(answer.changes)} changes ({message})")
    return answer.revision


def wait_for_workers(channel: grpc.Channel, revision: int) -> None:
    """Watches until every connected worker runs the revision, or one refuses it."""
    states: dict[str, workers.Worker] = {}
    has_all = False
    stream = WorkerServiceStub(channel).Watch(workers.WorkerServiceWatchRequest(), timeout=TIMEOUT_S)
    for step in stream:
        if step.HasField("worker"):
            states[step.worker.name] = step.worker
        else:
            # All have been sent once; from here on only changes come.
            has_all = True
        for worker in states.values():
            if worker.refused_revision == revision:
                raise SystemExit(f"{worker.name} refused it: {[fault.reason for fault in worker.faults]}")
        connected = [one for one in states.values() if one.state != workers.WORKER_STATE_DISCONNECTED]
        if has_all and all(worker.running_revision == revision for worker in connected):
            break
    stream.cancel()
    print(f"{len(connected)} workers run revision {revision}")


def chat(url: str, key: str, question: str) -> Iterator[str]:
    """Streams an answer, piece by piece, over plain HTTP."""
    body = {"model": "house-model", "stream": True, "messages": [{"role": "user", "content": question}]}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        for line in response:
            data = line.decode().removeprefix("data: ").strip()
            if data == "[DONE]":
                return
            if data and not data.startswith(":"):
                event = json.loads(data)
                if "error" in event:
                    raise RuntimeError(event["error"]["message"])
                yield event["choices"][0]["delta"].get("content") or ""
    raise RuntimeError("the stream ended before its end")


def chat_with_new_key(url: str, key: str, question: str) -> str:
    """The whole answer; waits for the worker to hear of the key."""
    deadline = time.monotonic() + KEY_WITHIN_S
    while True:
        try:
            return "".join(chat(url, key, question))
        except urllib.error.HTTPError as refused:
            if refused.code != 401 or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--admin", default="127.0.0.1:7070", help="the control plane's address for operators")
    arguments.add_argument("--worker", default="http://127.0.0.1:8080", help="a worker's URL for clients")
    arguments.add_argument("--backend", default="http://127.0.0.1:8000", help="the backend's URL")
    chosen = arguments.parse_args()

    with grpc.insecure_channel(chosen.admin) as channel:
        first = apply(channel, house(chosen.backend, requests_per_minute=600), "open the house")
        wait_for_workers(channel, first.number)

        name = f"alice-{uuid.uuid4().hex[:8]}"
        made = KeyServiceStub(channel).Create(
            keys.KeyServiceCreateRequest(name=name, tenant="research"), timeout=TIMEOUT_S
        )
        print(f"key {made.key.name} for {made.key.tenant}")
        print(f"answer: {chat_with_new_key(chosen.worker, made.secret, 'hello')}")

        second = apply(channel, house(chosen.backend, requests_per_minute=6), "fewer requests")
        wait_for_workers(channel, second.number)

        request = configs.ConfigServiceRollbackRequest(to=first.number, expected_revision=second.number)
        third = ConfigServiceStub(channel).Rollback(request, timeout=TIMEOUT_S).revision
        print(f"revision {third.number} is revision {third.rollback_of} again")
        wait_for_workers(channel, third.number)
        # Keys live beside the revisions: a rollback does not touch them.
        print(f"answer: {chat_with_new_key(chosen.worker, made.secret, 'hello again')}")


if __name__ == "__main__":
    main()
