#!/bin/bash
# Prints the address of the Debian repository that this machine uses.
set -euo pipefail

# SITE is the scheme, host and folder of a repository.  The security archive
# has a different layout.
# shellcheck disable=SC2016  # apt's variable
apt-get indextargets --format '$(SITE)' 'Created-By: Packages' |
    grep -v security | sed -n 1p
