#!/usr/bin/env bash
# The table of docs/results/faces.md: CelebA (its folder is the argument), ResNet10 of width 16, two targets, two seeds.
# Resumable: what is already in out/faces.jsonl is not run again. About half an hour on two cores.
set -euo pipefail
root=${1:?usage: faces_table.sh CELEBA_FOLDER}
cd "$(dirname "$0")/../examples"
python=${PYTHON:-python}
page=../docs/results/faces.md
mkdir -p ../docs/results
{
    echo "# CelebA, ResNet10"
    echo
    echo "Made by \`benchmarks/faces_table.sh\`: width 16, 32×32, sensitive attribute Male, tolerance 0.03, 5 dense epochs, then"
    echo "300 forward-backward passes for every method; test split, one row per seed. The BiFP rows under a \`params\` budget have"
    echo "the parameters, not the MACs, of the uniform ones."
} > "$page"
for target in Smiling Bags_Under_Eyes; do
    common=(--dataset celeba --root "$root" --target "$target" --seed 0 1 --steps 300 --threads 1
        --constraint equal_opportunity degradation_parity --out ../out/faces.jsonl --table ../out/table.md)
    printf '\n## %s\n\n' "$target" >> "$page"
    "$python" prune_faces.py "${common[@]}" --pruning-ratio 0.5 0.85
    cat ../out/table.md >> "$page"
    printf '\nWith one parameter budget over all layers:\n\n' >> "$page"
    "$python" prune_faces.py "${common[@]}" --budget params --methods bifp --pruning-ratio 0.7483 0.97842
    cat ../out/table.md >> "$page"
done
