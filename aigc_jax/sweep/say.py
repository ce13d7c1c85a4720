"""How a sweep speaks to the person who watches."""


def say(line: str) -> None:
    """Prints a line at once: into a file or a pipe too, where it would wait for thousands more."""
    print(line, flush=True)
