"""The `xenfs` command on real mounts. Each test has its own place, and ends what it has mounted there."""
