"""The health exporter: what the platform knows about itself, as metrics for Prometheus and for `lakehouse top`."""
