"""What came before a run: the network of another run that it starts from, and the cases that were seen."""
