"""Recipes, which decide results, and the execution config, which decides where and how fast a run is."""
