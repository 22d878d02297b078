"""What Tidemark knows and decides. Nothing here waits, prints, logs, draws random numbers, or reads a clock."""
