"""What every room shares: artifacts, fingerprints, the store, configuration, errors, progress and files.

Core knows no torch, no prefect and no mlflow, so importing it is instant and it can be trusted everywhere.
"""
