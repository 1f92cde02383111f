#!/usr/bin/env bash
# Runs the shell tour of the README as it stands there, and compares what it prints with what the README says it prints.
# Usage: tour.sh EMPTY-DIRECTORY, in the top of a checkout with .venv.
set -u
export XEN=$1
expected=$(sed -n '/^```sh$/,/^```$/{s/.*#> \{0,1\}//p}' README.md)
sed -n '/^```sh$/,/^```$/{/^```/d;p}' README.md > "$XEN.tour"
actual=$(timeout -s KILL 60 bash -eu "$XEN.tour" 2>&1)
status=$?
if [ $status -ne 0 ] || [ "$actual" != "$expected" ]; then
  echo "the tour ended with status $status; expected < > printed:"
  diff <(echo "$expected") <(echo "$actual")
  exit 1
fi
