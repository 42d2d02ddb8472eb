"""The pool, its zygote, the workers that talk to callers, and the prefetchers. Never imports router."""
