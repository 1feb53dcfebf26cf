#!/bin/bash
# Prints the address of the Debian repository that this machine uses.
set -euo pipefail

# SITE is scheme, host and folder of each repository that apt knows.  The
# security archive has another layout.
# shellcheck disable=SC2016  # apt's variable
apt-get indextargets --format '$(SITE)' 'Created-By: Packages' |
    grep -v security | sed -n 1p
