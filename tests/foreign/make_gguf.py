"""Writes a tiny random model for llama.cpp: ``python make_gguf.py FILE``. Needs the packages gguf and numpy."""

import sys

import gguf
import numpy as np

EMBED, FEED, LAYERS, HEADS, CONTEXT = 64, 128, 2, 2, 8192
BEGIN, END = 0, 1
#: Images are left out: the model is of text alone.
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}\n"
    "{% endfor %}assistant: "
)


def byte_alphabet() -> list[str]:
    """GPT-2's printable character for each byte."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [*map(chr, kept), *(chr(256 + number) for number in range(256 - len(kept)))]


def write(path: str) -> None:
    tokens = ["<s>", "</s>", *byte_alphabet(), "ab"]
    types = [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (len(tokens) - 2)
    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(CONTEXT)
    out.add_embedding_length(EMBED)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(FEED)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_rope_dimension_count(EMBED // HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(len(tokens))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("default")
    out.add_token_list(tokens)
    out.add_token_types(types)
    out.add_token_merges(["a b"])
    out.add_bos_token_id(BEGIN)
    out.add_eos_token_id(END)
    out.add_chat_template(TEMPLATE)
    _weights(out, len(tokens))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _weights(out: gguf.GGUFWriter, tokens: int) -> None:
    rng = np.random.default_rng(7)

    def random(*shape: int, scale: float = 0.3) -> np.ndarray:
        return rng.normal(0, scale, shape).astype(np.float32)

    ones = np.ones(EMBED, np.float32)
    output = random(tokens, EMBED)
    output[END] *= 4  # some answers end by themselves
    out.add_tensor("token_embd.weight", random(tokens, EMBED, scale=1))
    out.add_tensor("output_norm.weight", ones)
    out.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        shapes = {
            **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (EMBED, EMBED)),
            **dict.fromkeys(("ffn_gate", "ffn_up"), (FEED, EMBED)),
            "ffn_down": (EMBED, FEED),
        }
        for name in ("attn_norm", "ffn_norm"):
            out.add_tensor(f"blk.{layer}.{name}.weight", ones)
        for name, shape in shapes.items():
            out.add_tensor(f"blk.{layer}.{name}.weight", random(*shape))


if __name__ == "__main__":
    write(sys.argv[1])
