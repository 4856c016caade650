"""The web process: OpenAI's Files and Batches over the spool, and the viewer of answers.

Reads what is published and changes things by dropping files, as every user does; never imports the daemon. Nothing else
imports this room but its verb, so that no other verb waits for a web framework.
"""
