#!/usr/bin/env bash
# Prints the folder of a Debian system that holds real GIMP, made at the first call (as root; some
# 700 MB, two minutes): chroot.sh [trixie|forky]. trixie has GIMP 3.0, forky 3.2.
set -euo pipefail
suite=${1:-trixie}
root=${XDG_CACHE_HOME:-$HOME/.cache}/denoiser/gimp-$suite
if [ ! -d "$root" ]; then
    mkdir -p "$(dirname "$root")"
    {
        if ! command -v mmdebstrap; then
            apt-get update -qq
            apt-get install -qq -y --no-install-recommends mmdebstrap
        fi
        # a person's program, and what shows it, clicks in it and takes pictures of it
        packages=gimp,xvfb,xauth,xdotool,imagemagick,openbox,procps,adwaita-icon-theme
        rm -rf "$root.part"
        mmdebstrap --quiet --variant=apt --aptopt='APT::Install-Recommends "false"' \
            --aptopt='Acquire::Check-Valid-Until "false"' --dpkgopt=force-unsafe-io \
            --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
            --dpkgopt='path-exclude=/usr/share/locale/*' \
            --include="$packages,fonts-dejavu-core" "$suite" "$root.part"
        mv "$root.part" "$root"
    } >&2
fi
echo "$root"
