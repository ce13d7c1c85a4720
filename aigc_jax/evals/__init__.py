"""Evaluators: weights in, named floats out."""
