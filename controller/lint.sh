#!/bin/sh
# Check the repository: YAML, Python, shell, Perl, Ansible. Debian's checkers are installed where they are missing.
set -eu

files() { git ls-files -z | xargs -0 grep -slE "$1" -- | grep -vE '\.(j2|md|py)$'; }

if ! command -v shellcheck >/dev/null || ! command -v perlcritic >/dev/null; then
  echo "lint: installing Debian's shellcheck and libperl-critic-perl"
  controller/apt.sh shellcheck libperl-critic-perl >/dev/null ||
    { echo "lint: apt-get could not install shellcheck and libperl-critic-perl: install them, then run make again" >&2; exit 1; }
fi
yamllint --strict -c .config/yamllint.yml .
ruff check --quiet
ruff format --check --quiet .
mypy --no-error-summary
files '^#! ?/bin/(ba)?sh' | xargs shellcheck
files '^(#! ?/usr/bin/perl|package )' | xargs perlcritic --quiet --profile .config/perlcritic
ANSIBLE_INVENTORY_UNPARSED_FAILED=false ansible-lint --offline -q -c .config/ansible-lint.yml
