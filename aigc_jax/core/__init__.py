"""State, Task, config, optimizers and trees: what every other room stands on."""
