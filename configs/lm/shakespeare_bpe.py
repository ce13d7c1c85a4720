"""A small modern GPT on byte pairs of Shakespeare, with a vocabulary learnt from the text.

    aigc train configs/lm/shakespeare_bpe.py --config.data.path=INPUT.TXT

512 byte pairs, learnt from the training part, make one token of about two characters: a context of
64 tokens then reaches twice as far as one of 64 characters. Losses a token can't be compared
between vocabularies; `bits_per_byte` can.

Machine and time: two CPU cores, two minutes. Expected, in nats a token: 3.55 after 250 steps, 2.96
after 1,000, 2.890 at the end (three seeds), which is 2.220 bits a byte (95 %: 2.187 to 2.254). The
best n-gram of tokens, the 3-gram, has 3.079 nats.

Source: the recipe `shakespeare_modern.py`, with a byte-level vocabulary (Sennrich et al. 2016,
arXiv:1508.07909; byte-level: Radford et al. 2019, section 2.2).
"""

from ml_collections import ConfigDict

from configs.lm import shakespeare_modern


def get_config(arg: str | None = None) -> ConfigDict:
    if arg is not None:
        raise ValueError(f"this recipe has no variants, so no {arg!r}")
    config = shakespeare_modern.get_config()
    config.data.tokenizer = "bpe"
    config.data.vocab_size = 512
    return config
