"""Shared by all packages: artifacts, fingerprints, the store, configuration, errors, locks,
progress and files."""
