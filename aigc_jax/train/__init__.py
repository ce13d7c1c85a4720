"""The one training loop, its checkpoints, logs, signals and shardings."""
