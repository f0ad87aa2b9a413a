"""Server processes that the platform starts: Prefect, MLflow and the completions API."""
