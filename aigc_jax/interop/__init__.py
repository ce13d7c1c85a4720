"""Weights in and out: files of other frameworks, and what is made of them."""
