"""The programs that show how to use the generated clients do what they show."""

import subprocess
import sys

import pytest

import gateway as programs

CLIENTS = programs.ROOT / "proto" / "clients"
EXAMPLES = {
    "python": [sys.executable, CLIENTS / "python" / "example.py"],
    "typescript": ["node", CLIENTS / "typescript" / "dist" / "example.js"],
}
EXAMPLE_WITHIN_S = 60


@pytest.mark.parametrize("language", EXAMPLES)
def test_the_example_configures_asks_and_rolls_back(planes: programs.Planes, language: str) -> None:
    places = ["--admin", planes.admin, "--worker", planes.worker, "--backend", planes.mock_url]
    command = [*EXAMPLES[language], *places]
    done = subprocess.run(command, capture_output=True, text=True, timeout=EXAMPLE_WITHIN_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    answer = "answer: " + "".join(f"t{number} " for number in range(20))
    assert [line for line in lines if line.startswith("answer")] == [answer, answer]
    assert sum(line.startswith("1 workers run revision") for line in lines) == 3
    assert any("again" in line and line.startswith("revision") for line in lines)
