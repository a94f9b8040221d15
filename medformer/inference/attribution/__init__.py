"""What scores rest on."""
