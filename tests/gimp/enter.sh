#!/usr/bin/env bash
# enter.sh ROOT FOLDER... -- COMMAND: runs a command as root in the system ROOT, in which the folders
# are seen under their own paths. What is mounted goes when the command ends.
set -euo pipefail
if [ "${1:-}" != --inside ]; then
    exec unshare --mount --propagation private "$0" --inside "$@"
fi
root=$2
shift 2
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
while [ "$1" != -- ]; do
    mkdir -p "$root$1"
    mount --rbind "$1" "$root$1"
    shift
done
shift
exec chroot "$root" env -i HOME=/tmp PATH=/usr/bin:/bin LANG=C.UTF-8 \
    GIMP3_DIRECTORY="$GIMP3_DIRECTORY" "$@"
