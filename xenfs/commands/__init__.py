"""The subcommands of `xenfs` that make, look at and end a mounted machine."""
