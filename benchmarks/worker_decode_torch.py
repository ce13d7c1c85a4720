"""The peer of `decode.py`: transformers' GPT-2 with random weights and its own `generate`."""

import json
import resource
import sys
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def main() -> None:
    """Builds the model as told by the first line; a step is one batch of texts."""
    told = json.loads(sys.stdin.readline())
    torch.manual_seed(0)
    torch.set_num_threads(told["threads"])
    config = GPT2Config(
        vocab_size=told["vocab"], n_positions=told["context"], n_layer=told["layers"],
        n_head=told["heads"], n_embd=told["width"], eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    for line in sys.stdin:
        steps = json.loads(line)["steps"]
        begin = time.perf_counter()
        for _ in range(steps):
            prompt = torch.randint(0, told["vocab"], (told["batch"], told["prompt"]))
            with torch.inference_mode():
                text = model.generate(
                    prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                    max_new_tokens=told["tokens"], pad_token_id=0,
                )  # fmt: skip
        seconds = time.perf_counter() - begin
        assert text.shape == (told["batch"], told["prompt"] + told["tokens"])
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "memory": memory, "weights": size}), flush=True)


if __name__ == "__main__":
    main()
