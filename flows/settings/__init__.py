"""Recipes, the execution config, and the credentials of the servers."""
