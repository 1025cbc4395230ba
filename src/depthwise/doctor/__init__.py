"""Why a run does not learn: signals of the run, and the causes that they point to."""
