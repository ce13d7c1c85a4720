"""Sources and pipelines: a batch is a pure function of the step."""
