"""MLflow client plumbing: connections, retries, naming rules, and writing to a run."""
