"""The exit statuses that verbs share, as the contract has them; what the daemon itself ends with is `daemon.Exit`'s."""

FAILURE, USAGE, NOT_FOUND, INTERRUPTED = 1, 2, 4, 130
