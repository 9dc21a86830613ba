"""A short run of the load driver in each of its modes, through a worker; its comparisons have a run of their own.

Every token is checked, and one that is lost fails the run. The figures are those of a debug build on a machine with other
work: they are shown, not judged. docs/performance.md says how to measure.
"""

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gateway import PROGRAMS, gateway, mock_llm, running, unused_port

# Mode, and what makes it short.
MODES = {
    "unary": ["--connections", "8", "--duration", "2s"],
    "paced": ["--streams", "50", "--tokens", "50", "--duration", "2s"],
    "fast": ["--streams", "8", "--duration", "2s"],
    "held": ["--streams", "300", "--duration", "2s"],
    "ws": ["--streams", "64", "--sockets", "2", "--duration", "2s"],
    "cancel": ["--over", "ws", "--streams", "20", "--count", "100"],
}
RUN_WITHIN_S = 120

NGINX_CONFIG = """
worker_processes 1;
daemon off;
error_log stderr;
pid {folder}/nginx.pid;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream mock {{ server {upstream}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://mock;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            {more}
        }}
    }}
}}
"""


def load(mode: str, *flags: str) -> None:
    """One run of the load driver, its result on stdout; fails when a token was wrong."""
    command = [PROGRAMS / "ntonix-load", mode, *MODES[mode], *flags]
    done = subprocess.run(command, timeout=RUN_WITHIN_S, check=False)
    if done.returncode != 0:
        sys.exit(f"{mode} failed")


@contextlib.contextmanager
def nginx(folder: Path, upstream_url: str, more: str = "proxy_buffering off;") -> Iterator[str]:
    """nginx in front of a server, unless told otherwise without buffering; gives its URL."""
    port = unused_port()
    config = folder / "nginx.conf"
    upstream = upstream_url.removeprefix("http://")
    config.write_text(NGINX_CONFIG.format(folder=folder, upstream=upstream, port=port, more=more))
    with running(folder, shutil.which("nginx"), "-c", config, "-e", "stderr") as program:
        program.wait_until_open(port)
        yield f"http://127.0.0.1:{port}"


def main() -> None:
    """All modes, then the table of each."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ntonix-load-")))
        mock_url = stack.enter_context(mock_llm(folder))
        pool = {"name": "mock", "backends": [{"name": "one", "url": mock_url}]}
        routes = [{"model": "*", "targets": [{"pool": "mock"}]}]
        serving = stack.enter_context(gateway({"pools": [pool], "routes": routes}))
        for mode in MODES:
            load(mode, "--url", serving.url, "--mock", mock_url, "--watch-pid", str(serving.pid))


if __name__ == "__main__":
    main()
