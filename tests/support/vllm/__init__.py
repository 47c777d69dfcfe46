"""vLLM's custom ops without vLLM: their schemas, calls of them, and recorded graphs."""
