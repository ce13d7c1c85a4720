"""How much memory there is for a program."""

from pathlib import Path

import jax

_SHARE = 0.8  # of what is free: the rest is for what is not the program


def room() -> int:
    """Returns the bytes that a program may take on one device; 0 where that is not known.

    An accelerator says it itself; a CPU's devices share what the machine has free.
    """
    said = jax.devices()[0].memory_stats()
    if said and "bytes_limit" in said:
        return int(_SHARE * (said["bytes_limit"] - said.get("bytes_in_use", 0)))
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    free = next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvail")), 0)
    return int(_SHARE * free) // jax.local_device_count()
