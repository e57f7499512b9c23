"""One module per verb. Each takes the resolved configuration as plain values and returns a typed result."""
