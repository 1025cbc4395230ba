"""What looks wrong in the images of a run: labels, copies of a picture, images unlike all others."""
