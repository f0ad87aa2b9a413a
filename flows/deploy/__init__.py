"""Prefect deployments: schedules, automations, notifications and the runner that serves them."""
