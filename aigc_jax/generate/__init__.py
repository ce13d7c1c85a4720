"""Decoding, given a step function and a cache."""
