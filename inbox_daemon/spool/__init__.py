"""The on-disk protocol: the only writer of the spool, and `published`, the only reader for views."""
