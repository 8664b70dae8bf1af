#!/usr/bin/env bash
# Install celebahq_builder into a virtual environment of its own: docker/install.sh cpu|cuda FOLDER
# On a bare Debian machine, root gets Python and what OpenCV needs from Debian's packages first.
# Versions are those of constraints.txt. TORCH_INDEX= (empty) takes PyTorch from pip's own index, such as a mirror.
set -euo pipefail

usage="usage: docker/install.sh cpu|cuda FOLDER"
torch=${1:?$usage} folder=${2:?$usage}
source=$(cd "$(dirname "$0")/.." && pwd)
case $torch in
    cpu) index=${TORCH_INDEX-https://download.pytorch.org/whl/cpu} ;;
    cuda) index="" ;; # the build for Linux in pip's index is the one for CUDA
    *) echo "$usage, got $torch" >&2 && exit 2 ;;
esac

if ! python3 -c 'import ensurepip' 2>/dev/null; then
    [ "$(id -u)" = 0 ] || { echo "python3-venv is missing; install it, or run this script as root" >&2 && exit 1; }
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv
fi

python3 -m venv "$folder"
export PIP_NO_CACHE_DIR=${PIP_NO_CACHE_DIR-1} # pip ignores an empty value: PIP_NO_CACHE_DIR= uses its cache
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" ${index:+--index-url "$index"} "$(grep '^torch==' "$source/constraints.txt")"
"${pip[@]}" --constraint "$source/constraints.txt" "$source[blosc2,cluster,lsun,parquet]"
"$folder/bin/celebahq" --version
