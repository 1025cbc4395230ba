"""Where images come from: sets in memory and folders, and what opens either by its name."""
