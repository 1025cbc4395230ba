"""Work on a Ray cluster that somebody has started: connections, training, batch prediction, experiments."""
