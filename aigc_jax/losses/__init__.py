"""Pure losses that return one value per token or example."""
