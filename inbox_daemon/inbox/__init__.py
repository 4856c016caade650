"""What arrives in the inbox, and taking it. Runs nothing."""
