"""MLflow: experiment tracking, registered models, the promotion gate. No other package imports it.

A function that contacts MLflow raises `TrackingError` if MLflow fails or does not have the object.
`config`, `evidence`, `gate` and `mlflow_server` do not import MLflow; the other modules do (about
two seconds), so import those inside functions.
"""
