"""What is known of each volume before training."""
