"""Services that every flow uses: flow context, Prefect artifacts, events, stale runs, views."""
