"""The raw corpora: pinned archives in, JSON Lines under `data/`, then filtered, deduplicated documents.

`pull` fetches and writes `data/`, `raw` hands it to the rest of the house as artifacts, `documents` filters it with Daft.
"""
