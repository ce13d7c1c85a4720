"""What each family of models learns, as four pure functions."""
