#!/usr/bin/env bash
# Installs the programs of other makers that the tests in this folder run. Debian and its kin; needs root.
set -euo pipefail
declare -A package=([nbdkit]=nbdkit [qemu-nbd]=qemu-utils [qemu-io]=qemu-utils [nbdinfo]=libnbd-bin [tcpdump]=tcpdump)
missing=()
for program in "${!package[@]}"; do
    command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "make test-external needs ${missing[*]}: install them, or run it once as root where there is apt-get" >&2
    exit 1
fi
echo "installing ${missing[*]}"
apt-get install --quiet --quiet --yes --no-install-recommends "${missing[@]}" ||
    { apt-get update --quiet --quiet && apt-get install --quiet --quiet --yes --no-install-recommends "${missing[@]}"; }
