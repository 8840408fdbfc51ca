"""The members of batch normalisation's family with statistics of their own kind, or none: one file each."""
