# Sourced by the other scripts: creates .venv with Python 3.11 or newer if needed, and activates it.
if [ ! -x .venv/bin/python ] || [ ! -x .venv/bin/pip ]; then
  for python in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi
    python=
  done
  if [ -z "$python" ]; then
    echo "error: Python 3.11 or newer is needed and was not found. Install it, or name it: PYTHON=/path/to/python $0" >&2
    exit 2
  fi
  "$python" -m venv .venv
fi
export PATH="$PWD/.venv/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1
