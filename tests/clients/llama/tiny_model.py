"""Writes a llama model of random weights: a real model for a real server, in less than a megabyte.

The same bytes every time: what it says is nonsense, but the same nonsense to the same question (at temperature 0).
"""

from pathlib import Path

import gguf
import numpy

SEED = 20
LAYERS, WIDTH, HEADS, INNER, CONTEXT = 2, 64, 4, 128, 2048
# Large weights keep the model from saying one word for ever.
SCALE = 0.35

BYTES = 256
SPECIAL = ["<unk>", "<s>", "</s>"]
# Characters of one, two, three and four bytes.
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [f"▁{first}{second}" for first in LETTERS for second in "aeiounrst"]
WORLD = [*(f"▁{word}" for word in ("naïve", "straße", "día")), *"日本語中文한국어🙂🚀"]
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}assistant:"


def vocabulary() -> tuple[list[str], list[float], list[int]]:
    """The tokens with their scores and types."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(BYTES)]
    words = ["▁", *LETTERS, *WORDS, *WORLD]
    kind = gguf.TokenType
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * len(bytes_), *[kind.NORMAL] * len(words)]
    tokens = [*SPECIAL, *bytes_, *words]
    scores = [0.0] * (len(SPECIAL) + len(bytes_)) + [-float(rank) for rank in range(len(words))]
    return tokens, scores, [int(one) for one in types]


def tensors(tokens: int) -> dict[str, numpy.ndarray]:
    """The weights by their names in llama.cpp, rows first."""
    random = numpy.random.RandomState(SEED)

    def matrix(rows: int, columns: int) -> numpy.ndarray:
        return (random.standard_normal((rows, columns)) * SCALE).astype(numpy.float32)

    norm = numpy.ones(WIDTH, dtype=numpy.float32)
    output = matrix(tokens, WIDTH)
    # Never an end, and never a lone byte: only whole characters, so that a text is the same however it is cut.
    output[: len(SPECIAL) + BYTES] = 0
    weights = {"token_embd": matrix(tokens, WIDTH), "output_norm": norm, "output": output}
    for layer in range(LAYERS):
        shapes = {part: (WIDTH, WIDTH) for part in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
        weights |= {f"blk.{layer}.{part}": matrix(*shape) for part, shape in shapes.items()}
        weights |= {f"blk.{layer}.{part}": norm for part in ("attn_norm", "ffn_norm")}
    return {f"{name}.weight": weight for name, weight in weights.items()}


def write(path: Path) -> None:
    """Writes the model to `path`."""
    tokens, scores, types = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(SPECIAL.index("<s>"))
    writer.add_eos_token_id(SPECIAL.index("</s>"))
    writer.add_unk_token_id(SPECIAL.index("<unk>"))
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, weight in tensors(len(tokens)).items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
