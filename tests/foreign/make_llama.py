"""Writes a tiny random model for transformers: ``python make_llama.py FOLDER``. Needs transformers and torch."""

import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}\n"
    "{% endfor %}assistant: "
)
BEGIN, END = 0, 1


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes."""
    of_bytes = Tokenizer(models.BPE())
    of_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    of_bytes.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"])
    of_bytes.train_from_iterator(["a"], trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=of_bytes, chat_template=TEMPLATE, **names)


def write(folder: str) -> None:
    words = tokenizer()
    words.save_pretrained(folder)
    torch.manual_seed(7)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": END}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), max_position_embeddings=8192, **shape, **special))
    # each eighth token ends an answer, so that some end by themselves
    model.generation_config.eos_token_id = [END, *range(2, len(words), 8)]
    model.generation_config.do_sample = True
    model.save_pretrained(folder)


if __name__ == "__main__":
    write(sys.argv[1])
