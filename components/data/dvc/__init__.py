"""The raw corpora under DVC: repository and objects, default remote, differences of versions."""
