"""Services that every flow uses: the flow context, Prefect artifacts, stale-run handling and progress views."""
