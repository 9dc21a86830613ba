"""buf curl, unchanged: knows the admin API from the control plane's reflection alone, over gRPC and gRPC-web."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import Planes

BUF = Path(sys.executable).with_name("buf")
CALL_WITHIN_S = 30
PROTOCOLS = ["grpc", "grpcweb"]


def call(planes: Planes, method: str, request: dict, protocol: str) -> subprocess.CompletedProcess[str]:
    command = [BUF, "curl", "--protocol", protocol, "--http2-prior-knowledge", "--data", json.dumps(request)]
    command.append(f"http://{planes.admin}/{method}")
    return subprocess.run(command, capture_output=True, text=True, timeout=CALL_WITHIN_S, check=False)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_bad_configuration_is_refused_with_the_path_of_each_fault(planes: Planes, protocol: str) -> None:
    config = {"routes": [{"model": "m", "targets": [{"pool": "nowhere"}]}], "pools": [{"name": "UPPER"}]}
    done = call(planes, "ntonix.admin.v1.ConfigService/Plan", {"config": config}, protocol)
    error = json.loads(done.stderr)
    assert error["code"] == "invalid_argument"
    [detail] = error["details"]
    assert detail["type"] == "google.rpc.BadRequest"
    # The reflection does not describe Google's error details; their strings stand in the bytes as they are.
    violations = base64.b64decode(detail["value"] + "==").decode(errors="replace")
    assert "routes[0].targets[0].pool" in violations
    assert "pools[0].name" in violations


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_worker_is_listed(planes: Planes, protocol: str) -> None:
    done = call(planes, "ntonix.admin.v1.WorkerService/List", {}, protocol)
    [worker] = json.loads(done.stdout)["workers"]
    assert worker["address"] in planes.worker


def test_the_control_plane_says_that_it_is_healthy(planes: Planes) -> None:
    done = call(planes, "grpc.health.v1.Health/Check", {}, "grpc")
    assert json.loads(done.stdout) == {"status": "SERVING"}
