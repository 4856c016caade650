"""Is all well, and who hears of it. Judges and tells; what is to be done about it, the daemon does."""
