"""What every process runs on: signals, flushes, sweeps, logs, metrics, probes, failpoints."""
