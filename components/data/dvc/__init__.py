"""The raw corpora under DVC: the pointer file data.dvc, the remote, the objects and differences between versions."""
