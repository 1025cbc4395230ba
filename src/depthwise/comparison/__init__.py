"""Comparisons of training runs that differ in one thing: arms, seeds, claims, and a page of answers."""
