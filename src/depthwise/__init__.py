"""Train, compare and ship depthwise-separable image classifiers: the public names, each loaded when first used."""
