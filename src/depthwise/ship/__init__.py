"""From a trained network to what answers, and in and out of other forms."""
