"""What tells normal from abnormal: detectors, the pseudo-anomalies they learn from, and metrics."""
