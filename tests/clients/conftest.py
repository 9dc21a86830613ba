"""What the tests share: a gateway in front of mock backends, both planes apart, a limit on the time of each test."""

import signal
from collections.abc import Iterator

import pytest

import gateway as programs

TEST_WITHIN_S = 120


@pytest.fixture(scope="session")
def gateway() -> Iterator[programs.Gateway]:
    """A worker in front of a mock backend, with `example_config`."""
    with programs.gateway() as serving:
        yield serving


@pytest.fixture(scope="session")
def planes() -> Iterator[programs.Planes]:
    """Both planes; tests use them one after the other, as operators would."""
    with programs.planes() as planes:
        yield planes


@pytest.fixture(autouse=True)
def bounded_in_time() -> Iterator[None]:
    """A test that hangs fails."""

    def too_late(*_: object) -> None:
        raise TimeoutError(f"the test took more than {TEST_WITHIN_S} s")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(TEST_WITHIN_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
