"""Batches of the same requests, held against each other. Reads outboxes; never writes into a spool."""
