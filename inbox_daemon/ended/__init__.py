"""Batches after their end: the operator's program hears of it, work lets go of them, and the outbox in the end."""
