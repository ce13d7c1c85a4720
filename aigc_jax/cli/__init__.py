"""The command line: it parses, wires and calls."""
