"""What several processes that train together need."""
