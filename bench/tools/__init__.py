"""What it takes of this machine: compilers, peers, CPUs."""
