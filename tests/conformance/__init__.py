"""What every implementation of the domain Protocols does: the same tests on the model and on a mount."""
