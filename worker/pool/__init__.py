"""The authority on its workers: keeps them ready, reserves them, keeps a duplicate of every live socket."""
