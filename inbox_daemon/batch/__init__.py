"""One batch: its life in order, its queue, its books, its face. Knows no other batch and no engine."""
