"""The `codegen` command line."""
