"""Raw corpora and document filters.

`archives` pulls pinned archives into `data/`, `dvc` versions `data/`, `sources` reads raw files,
`filters` rejects and changes documents.
"""
