"""Run folders read back: status, comparison, report."""
