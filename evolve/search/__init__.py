"""The search: how it opens, climbs, asks, races and learns, with generations or without."""
