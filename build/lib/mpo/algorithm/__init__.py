"""What is learnt: MPO's losses, targets, networks and optimizers."""
