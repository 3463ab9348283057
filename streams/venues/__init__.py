"""One file per venue: a table of facts plus pure functions. See :mod:`streams.venue`."""
