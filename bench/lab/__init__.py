"""What every measurement uses."""
