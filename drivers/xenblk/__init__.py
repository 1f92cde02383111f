"""blkfront and blkback: a disk through one ring, or several."""
