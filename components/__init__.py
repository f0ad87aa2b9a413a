"""The rooms of the house: each one does a single thing, and none of them knows Prefect."""
