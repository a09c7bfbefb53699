"""Minari data sets of the registered tasks: episodes that policies play, recorded in batches of worlds."""
