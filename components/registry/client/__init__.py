"""MLflow client plumbing: connections, retries, metric buffering and naming rules."""
