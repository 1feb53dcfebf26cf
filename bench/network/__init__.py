"""What it is measured on: links, hosts, frames, and the ground truth."""
