"""Training: what a recipe says (recipe), how it is carried out (loop), and what a run leaves behind (run, ending)."""
