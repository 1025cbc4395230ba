"""Many images answered piece by piece, here or by a cluster: what was answered once is not answered again."""
