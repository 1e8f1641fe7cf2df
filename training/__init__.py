"""One readable recipe per file; imports adapters and pipelines, never studio."""
