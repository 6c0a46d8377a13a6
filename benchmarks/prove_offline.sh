#!/bin/bash
# Usage: benchmarks/prove_offline.sh WHEELS [options of l2o prove]
#
# Runs `l2o prove` of this checkout on a machine with a card and without a network. WHEELS is a folder of wheels that the
# machine's Python lacks; docs/gpu.md lists them. They are installed beside this checkout in .prove-site, without their
# dependencies, so that the torch of the machine stays as it is. PYTHON names another python3, SITE another folder.
set -eu
wheels=${1:?usage: prove_offline.sh WHEELS [options of l2o prove]}
shift
python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
site=${SITE:-$root/.prove-site}

if [ ! -e "$site/ready" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --upgrade --target "$site" "$wheels"/*.whl
    touch "$site/ready"
fi
export PYTHONPATH="$root:$site${PYTHONPATH:+:$PYTHONPATH}"
# Instead of the entry points of an installed package. A method or dataparser that is known already is loaded once more.
configs=l2o_splat.plugin.configs
NERFSTUDIO_METHOD_CONFIGS="l2o-adam=$configs:l2o_adam,l2o-adam-tuned=$configs:l2o_adam_tuned"
NERFSTUDIO_METHOD_CONFIGS+=",learn2splat=$configs:learn2splat,resplat=$configs:resplat,diff3r=$configs:diff3r"
export NERFSTUDIO_METHOD_CONFIGS
export NERFSTUDIO_DATAPARSER_CONFIGS="l2o-demo=l2o_splat.plugin.dataparser:l2o_demo_dataparser"
export HF_HUB_OFFLINE=1 # Answers at once where weights are not in the cache.
exec "$python" -W ignore -m l2o_splat.cli prove "$@"
