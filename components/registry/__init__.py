"""MLflow: experiment tracking, registered models, the promotion gate. No other package imports it.

`config`, `evidence` and `gate` do not import MLflow; the other modules do (about two seconds), so
import those inside functions.
"""
