"""Prefect deployments, their runner, and automations."""
