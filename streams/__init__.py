"""Everything that waits: Kafka, Redis, the terminal. No business decision is taken here."""
