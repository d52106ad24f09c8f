"""What leaves the backend: research data, Prometheus metrics, the NEVI quarterly set."""
