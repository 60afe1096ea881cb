"""What the builders share: options, the cache of encoded clips, the process pool, the report."""
