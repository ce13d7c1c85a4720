"""Arrays or strings in, floats out."""
