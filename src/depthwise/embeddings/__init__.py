"""Features of images, kept in a file, and the images whose features are most like a picture's."""
