#!/bin/bash
# From nothing to a gate that fails and is mended, in a folder with a tilescore wheel: walk.sh WHEEL
set -eux
python3 -m venv venv
venv/bin/pip install --quiet "$1" pytest
venv/bin/pytest --tilescore-update
git init --quiet . && git add test_schedules.py tilescore_baselines
venv/bin/pytest
venv/bin/python slow_down.py
! venv/bin/pytest
rm attention.toml
venv/bin/pytest
