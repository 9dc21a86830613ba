"""Runs the llama.cpp server of the wheel `xllamacpp` on the tiny model until it is told to end."""

import signal
import sys
from pathlib import Path

import xllamacpp

import tiny_model

MODEL = "tiny"


def main(folder: Path) -> None:
    """Writes the model into `folder` and serves it on a free port, which it prints."""
    path = folder / "tiny.gguf"
    tiny_model.write(path)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {MODEL}
    params.port = 0
    params.n_ctx = tiny_model.CONTEXT
    # One slot, so that no answer depends on what else is in the batch.
    params.n_parallel = 1
    params.cache_prompt = False
    params.warmup = False
    params.cpuparams.n_threads = 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = xllamacpp.Server(params)
    print(f"llama.cpp listens on {server.listening_address}", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
