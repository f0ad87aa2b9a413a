"""One stage of training: its configuration, its schedule, the DeepSpeed ranks that run it, and how a flow starts them."""
