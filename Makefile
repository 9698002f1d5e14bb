# The operator's commands. `make help` lists them; README.md explains them.

# Words that people type reach shells, command lines and templates: a word with a character that means something there is refused,
# before anything is read or run. (VARS and CMD take everything: they are never expanded. VARS is what -e of Ansible takes, CMD what make manage runs.)
WORDS_APART := DRILL PART SINCE STEPS TESTS TO
WORDS := ADDRESS ANYWAY BREAKING CANARY CHECK DETACH ENV FOR FROM FULL HOST ID IMAGE LIMIT MINUTES MITOGEN NAME NODE OFF POOL READONLY REF REHEARSE RELEASE \
  RENEW REQUEST RUNG SECONDS SITE START STOP TAGS UNIT USERS VERBOSE WITH YES
HASH := \#
define NEWLINE


endef
MEANING := ' " ` $$ \ { } ( ) ; | < > $(HASH)
refuse = $(error Nothing was touched. $(1)=$(value $(1)) has $(2) in it, which no $(1) needs)
$(foreach name,$(WORDS) $(WORDS_APART),$(foreach character,$(MEANING),$(if $(findstring $(character),$(value $(name))),$(call refuse,$(name),$(character)))))
$(foreach name,$(filter-out LIMIT,$(WORDS) $(WORDS_APART)),$(if $(findstring &,$(value $(name))),$(call refuse,$(name),&)))
$(foreach name,$(WORDS) $(WORDS_APART),$(if $(findstring $(NEWLINE),$(value $(name))),$(call refuse,$(name),a new line)))
$(foreach name,$(WORDS),$(if $(word 2,$(value $(name))),$(call refuse,$(name),a space)))
# MESSAGE is a sentence for visitors, and takes all but what make itself expands.
$(if $(findstring $$,$(value MESSAGE)),$(call refuse,MESSAGE,$$))

# A dry run of a verb that has none is refused: nothing is run for real because CHECK=1 was ignored.
WITHOUT_CHECK := up secrets reboot upgrade manage shell dbshell down drill drills
$(if $(CHECK),$(foreach verb,$(filter $(WITHOUT_CHECK),$(MAKECMDGOALS)),$(error Nothing was touched. make $(verb) has no dry run: leave CHECK= out)))
$(if $(filter-out 1,$(RENEW)),$(error Nothing was touched. RENEW=$(RENEW) is not known: RENEW=1 renews the certificate))

ENV      ?= local
MITOGEN  ?= 1
# REHEARSE=1: the same environment as containers on this machine, with secrets of its own.
ifeq ($(REHEARSE),1)
STATE    := .state/$(ENV)-rehearsal
TREE     := $(STATE)/inventory
else
STATE    := .state/$(ENV)
TREE     := inventories
endif
INVENTORY = $(TREE)/$(ENV).yml
VAULT    := $(TREE)/group_vars/$(ENV)/vault.yml
VENV     := $(CURDIR)/.venv
# An environment that begins as one of several drawings of it: inventories/ENV/RUNG.yml (docs/ladder.md).
RUNGS    := $(basename $(notdir $(wildcard inventories/$(ENV)/*.yml)))
LADDERS  := $(filter-out group_vars,$(sort $(notdir $(patsubst %/,%,$(dir $(wildcard inventories/*/*.yml))))))

# What containers are booted from: golden images where there are some (make image), or bare.
IMAGE    ?= golden
export ENV
export INVENTORY
export IMAGE
SYSTEM_PATH := $(PATH)
export PATH := $(VENV)/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# Programs of controller/ and plugins/ are imported from here.
export PYTHONPATH := $(CURDIR)
# Ansible loads its plugins in every worker it forks: from bytecode, wherever this was set.
unexport PYTHONDONTWRITEBYTECODE
ifeq ($(REHEARSE),1)
export ANSIBLE_VAULT_PASSWORD_FILE := $(CURDIR)/$(STATE)/vault-password
else
export ANSIBLE_VAULT_PASSWORD_FILE ?= $(CURDIR)/$(STATE)/vault-password
endif
# For plugins/callback/progress.py: what was typed, and the same number for every playbook of one verb, which share a log.
# A verb that another one runs is part of it; what tests run are verbs of their own.
ifeq ($(VERB),)
export VERB := $(strip make $(MAKECMDGOALS) $(foreach name,ENV REHEARSE MITOGEN,$(if $(filter environment,$(origin $(name))),$(name)=$($(name)))) $(MAKEOVERRIDES))
export VERB_RUN := $(shell date +%s%N)
endif
test verify bench drill drills: export VERB :=
# Of what a verb does by the way, failures and messages about changes are printed.
QUIET = PROGRESS=quiet
# The accelerator. MITOGEN=0 is plain Ansible: slower, same result.
ifeq ($(MITOGEN),1)
export ANSIBLE_STRATEGY := accelerated
export ANSIBLE_DEPRECATION_WARNINGS := false
else
unexport ANSIBLE_STRATEGY
endif

# As it was typed, for the program of make manage.
override export CMD := $(value CMD)

PLAY = ansible-playbook -i $(INVENTORY) $(if $(LIMIT),--limit '$(LIMIT)') $(if $(TAGS),--tags '$(TAGS)') $(if $(CHECK),--check --diff) $(if $(VARS),-e "$$VARS")
# What changes an environment: one at a time.
CHANGE = $(if $(CHECK),,python -m controller.lock $(INVENTORY) 'make $@') $(PLAY)

.DEFAULT_GOAL := help
.PHONY: help

help: ## look: This list
	@awk 'BEGIN {split("build change look break test", order)} /^[a-z-]+:.*## [a-z]+: / { \
	    name = $$0; sub(/:.*/, "", name); text = $$0; sub(/^.*## /, "", text); group = text; sub(/:.*/, "", group); sub(/^[a-z]+: /, "", text); \
	    lines[group] = lines[group] sprintf("  make %-14s %s\n", name, text)} \
	  END {for (number = 1; number in order; number++) printf "%s\n%s\n", toupper(order[number]), lines[order[number]]}' $(MAKEFILE_LIST)
	@printf '%s\n' 'ENV=local|staging|production|ladder   LIMIT=lb1,app   TAGS=nginx   CHECK=1 (dry run)   VARS=app_threads=8   MITOGEN=0   REHEARSE=1   VERBOSE=1   IMAGE=bare'

# ------------------------------------------------------------------ what every verb stands on

$(VENV)/.ready: .config/requirements.txt
	@echo 'venv: installing the pinned tools of .config/requirements.txt into .venv'
	@PATH='$(SYSTEM_PATH)' controller/venv.sh '$(VENV)'
	@touch $@

.PHONY: ready
ready: $(VENV)/.ready
ifneq ($(RUNGS),)
	@python -m controller.commands.climb begin --inventory inventories/$(ENV).yml $(if $(filter climb,$(MAKECMDGOALS)),,$(if $(RUNG),--rung='$(RUNG)'))
endif
	@[ -f inventories/$(ENV).yml ] || { echo "No environment '$(ENV)': there is no inventories/$(ENV).yml. There are: $(sort $(basename $(notdir $(wildcard inventories/*.yml))) $(LADDERS))." >&2; exit 2; }
	@mkdir -p -m 700 $(STATE)
ifeq ($(REHEARSE),1)
	@python -m controller.commands.rehearse --inventory inventories/$(ENV).yml --state $(STATE)
endif
	@if [ ! -s "$$ANSIBLE_VAULT_PASSWORD_FILE" ]; then \
	  if [ -f $(VAULT) ]; then \
	    echo "$(VAULT) is there and its password is not: put it in $$ANSIBLE_VAULT_PASSWORD_FILE (mode 600), or name its file in ANSIBLE_VAULT_PASSWORD_FILE." >&2; exit 2; fi; \
	  (umask 077; head -c 32 /dev/urandom | base64 > "$$ANSIBLE_VAULT_PASSWORD_FILE"); fi

# Containers, where the environment's hosts are containers on this machine.
CONTAINERS := $(if $(filter 1,$(REHEARSE)),yes,$(shell grep -qs '^env_containers: true' group_vars/$(ENV)/main.yml && echo yes))

.PHONY: platform
platform: ready
ifeq ($(CONTAINERS),yes)
	@containers/engine.sh up
	@containers/image.sh
	@echo 'platform: booting the containers of $(INVENTORY)'
	@$(QUIET) ansible-playbook -i $(INVENTORY) containers/create.yml
endif

# ------------------------------------------------------------------ verbs

.PHONY: converge site site-check up image secrets secret summary
converge: ## build: Build all of ENV, or bring it back to its declared state
ifdef CHECK
	@$(MAKE) --no-print-directory standing site
else
	@start=$$(date +%s) && $(MAKE) --no-print-directory up site && $(MAKE) --no-print-directory summary START=$$start
endif

up: platform secrets ## build: Boot ENV's containers, unconfigured (converge does it by itself)

standing: ready
	@[ -s $(VAULT) ] || [ '$(CONTAINERS)' = yes ] || { \
	  echo "A dry run needs the secrets of $(ENV), and there are none yet. Make them: make secrets ENV=$(ENV)" >&2; exit 2; }
ifeq ($(CONTAINERS),yes)
	@docker ps --quiet --filter label=realworld=$(ENV) 2>/dev/null | grep -q . || { \
	  echo "Nothing stands yet for a dry run to look at. 'make up' boots the hosts bare; 'make converge' builds everything." >&2; exit 2; }
endif

site: ready ## build: Run converge's playbook alone, on hosts that are up: make site LIMIT=lb TAGS=nginx
	@$(CHANGE) playbooks/site.yml

image: ready ## build: Bake the packages of each set of groups into an image that hosts boot from; real hosts: prepare a bare one, LIMIT=app3
ifeq ($(CONTAINERS),yes)
	@[ -z '$(CHECK)' ] || { echo 'Nothing was touched. make image has no dry run for containers: leave CHECK= out' >&2; exit 2; }
	@containers/engine.sh up
	@containers/image.sh
	@ansible-playbook -i $(INVENTORY) containers/bake.yml -e bake_limit='$(LIMIT)' $(if $(VARS),-e "$$VARS")
else
	@[ -n '$(LIMIT)' ] || { echo "Which machine, bare and in inventories/$(ENV).yml already? make image ENV=$(ENV) LIMIT=app3" >&2; exit 2; }
	@$(PLAY) playbooks/image.yml
endif

# By the modules that the build reads with, and without bytecode beside files that roles copy.
site-check: ready ## look: Show what a Django project needs here, from its files alone: SITE=path or URL, or ENV's site_source
	@PYTHONDONTWRITEBYTECODE=1 PYTHONPATH='$(CURDIR):$(CURDIR)/roles/django/files/build' python -m controller.commands.site_check \
	  $(if $(SITE),--site='$(SITE)',--inventory $(INVENTORY) $(if $(VARS),-e "$$VARS"))

secrets: ready ## build: Create the missing secrets of ENV in group_vars/ENV/vault.yml (Ansible Vault); RENEW=1: renew the site's certificate
	@$(QUIET) ansible-playbook -i $(INVENTORY) playbooks/secrets.yml

secret: ready ## look: Show one secret of ENV: make secret NAME=monitor_password
	@ansible-vault view $(VAULT) | python -c 'import sys, yaml; print(yaml.safe_load(sys.stdin)["$(NAME)"])'

summary:
	@$(QUIET) ansible-playbook -i $(INVENTORY) playbooks/parts/summary.yml -e summary_start=$(or $(START),0)
	@cat $(STATE)/summary.txt

deploy: override LIMIT := $(if $(LIMIT),$(LIMIT):lb:backup)
deploy: ready ## change: Build the release of ENV's site once and roll it out to the app hosts: REF=v1.4, CANARY=app1 or 10%
	@$(CHANGE) playbooks/deploy.yml $(if $(REF),-e site_ref='$(REF)') $(if $(RELEASE),-e django_version='$(RELEASE)') \
	  $(if $(CANARY),-e deploy_canary='$(CANARY)') $(if $(BREAKING),-e deploy_breaking=true)

rollback: ready ## change: Roll back to the previous release, code and static files: RELEASE=… for an older one
	@$(CHANGE) playbooks/rollback.yml $(if $(RELEASE),-e rollback_to='$(RELEASE)') $(if $(BREAKING),-e rollback_breaking=true)

releases: ready ## look: Show the release log, and the release that every app host serves
	@python -m controller.commands.releases --inventory $(INVENTORY)

reboot: ready ## change: Reboot hosts one by one without a failed request: make reboot LIMIT=app; all where none is named
	@$(REBOOT)

upgrade: ready ## change: Upgrade packages and reboot, host by host, without a failed request: LIMIT=app
	@$(REBOOT) -e reboot_upgrade=true

reboot upgrade: override REBOOT = python -m controller.lock $(INVENTORY) 'make $@' ansible-playbook -i $(INVENTORY) playbooks/reboot.yml \
	  -e '{"reboot_hosts": "$(or $(LIMIT),all)"}' $(if $(ANYWAY),-e reboot_anyway=true) $(if $(VARS),-e "$$VARS")

status: ready ## look: Show the health of every host of ENV; fails if there is a problem
	@python -m controller.commands.status --inventory $(INVENTORY) $(if $(VARS),-e "$$VARS")

# The inventory of another environment, rehearsed where this one is.
OTHER = $(if $(filter 1,$(REHEARSE)),.state/$(WITH)-rehearsal/inventory,inventories)/$(WITH).yml

parity: ready ## look: Compare what the hosts of two environments are, tier by tier: make parity ENV=staging WITH=production
	@[ -n '$(WITH)' ] || { echo "With which one? make parity ENV=staging WITH=production" >&2; exit 2; }
	@$(MAKE) --no-print-directory ready ENV='$(WITH)'
	@python -m controller.commands.parity parity --inventory $(INVENTORY) --other $(OTHER)

drift: ready ## look: Compare ENV with its own declaration, and the hosts of each pool with each other
	@python -m controller.commands.parity drift --inventory $(INVENTORY) $(if $(VARS),-e "$$VARS")

pool: ready ## look: Show each balancer's statistics of its backends (requests, failures, times): MINUTES=5
	@python -m controller.commands.backends --inventory $(INVENTORY) $(if $(MINUTES),--minutes='$(MINUTES)') $(if $(VARS),-e "$$VARS")

logs: ready ## look: Print lines of all hosts in order of time: REQUEST=id, HOST=app1 UNIT=apache2 SINCE=30m
	@python -m controller.commands.logs --inventory $(INVENTORY) $(if $(REQUEST),--request='$(REQUEST)') $(if $(HOST),--host='$(HOST)') \
	  $(if $(UNIT),--unit='$(UNIT)') $(if $(SINCE),--since='$(SINCE)') $(if $(VARS),-e "$$VARS")

MANAGE = python -m controller.commands.manage --inventory $(INVENTORY) $(if $(HOST),--host='$(HOST)')

manage: ready ## change: Run a management command on an app host, with limits: CMD='migrate --plan' HOST=app2, DETACH=1 does not wait, STOP=id ends one
	@$(MANAGE) $(if $(DETACH),--detach) $(if $(STOP),--stop='$(STOP)') run

jobs: ready ## look: List the runs of make manage, or show one with its output: ID=…
	@python -m controller.commands.jobs --inventory $(INVENTORY) $(if $(ID),--id='$(ID)')

shell: ready ## change: Open Django's shell on an app host: HOST=app2
	@$(MANAGE) shell

dbshell: ready ## change: Open psql in the site's database on an app host, as the site's user: HOST=app2
	@$(MANAGE) dbshell

failover: ready ## change: Switch ENV's primary, planned, without a failed request: make failover NODE=db2
	@$(CHANGE) playbooks/failover.yml $(if $(NODE),-e failover_to='$(NODE)')

maintenance: ready ## change: Show visitors a page of maintenance: FOR=20m MESSAGE='…', READONLY=1: they can read; OFF=1 ends it; alone: print the state
	@python -m controller.commands.maintenance --inventory $(INVENTORY) $(if $(FOR),--for='$(FOR)') --message="$$MESSAGE" \
	  $(if $(READONLY),--readonly='$(READONLY)') $(if $(OFF),--off='$(OFF)') $(if $(LIMIT),--limit='$(LIMIT)') $(if $(CHECK),--check) $(if $(VARS),-e "$$VARS")

backup: ready ## change: Back ENV's databases and uploads up now, besides the schedule: FULL=1
	@$(CHANGE) playbooks/backup.yml $(if $(FULL),-e backup_kind=full)

restore: ready ## change: Bring ENV's database and uploads back to a moment: TO="2026-11-23 18:00" (UTC); asks first, YES=1 does not
	@$(CHANGE) playbooks/restore.yml -e '{"restore_to": "$(TO)", "restore_yes": $(if $(YES),true,false)}'

restore-drill: ready ## look: Prove that ENV's newest backup restores, on the backup host, without a load on other hosts
	@$(CHANGE) playbooks/restore_drill.yml

smoke: ready ## look: Smoke-test ENV's site through the virtual IP: its pages, all they link to, and a sign-in
	@python -m controller.commands.smoke --inventory $(INVENTORY) $(if $(VARS),-e "$$VARS")

# In a virtualenv of its own: Locust brings along a web server and patches Python's sockets, which no other verb wants.
LOCUST := .state/locust
$(LOCUST)/.ready: .config/locust.txt
	@echo 'load: installing Locust, as .config/locust.txt pins it, into $(LOCUST)'
	@uv venv --quiet --clear --python $(VENV)/bin/python $(LOCUST)
	@UV_SYSTEM_CERTS=1 uv pip sync --quiet --require-hashes --python $(LOCUST)/bin/python .config/locust.txt
	@touch $@

.PHONY: load locust
locust: ready
	@$(MAKE) --no-print-directory $(LOCUST)/.ready

load: locust ## look: Load-test ENV's site and name the tier that limits it: USERS=50 SECONDS=60; production needs ANYWAY=1
	@python -m controller.commands.load --inventory $(INVENTORY) --locust $(LOCUST)/bin/locust $(if $(USERS),--users='$(USERS)') \
	  $(if $(SECONDS),--seconds='$(SECONDS)') $(if $(ANYWAY),--anyway) $(if $(VARS),-e "$$VARS")

rebuild: override WITH := $(FROM)
rebuild: ready ## build: Destroy ENV and bring it back: from its own backup host, or FROM=production, scrubbed; asks first, YES=1 does not
ifeq ($(CONTAINERS),yes)
	@containers/engine.sh up
endif
	@$(if $(FROM),$(MAKE) --no-print-directory ready ENV='$(FROM)')
	@python -m controller.commands.rebuild --inventory $(INVENTORY) $(if $(FROM),--from $(OTHER)) $(if $(YES),--yes) $(if $(CHECK),--check) $(if $(VARS),-e "$$VARS")

NODES = $(if $(CHECK),,python -m controller.lock $(INVENTORY) 'make $@') python -m controller.commands.node
NODE_OPTIONS = --inventory $(INVENTORY) $(if $(POOL),--pool='$(POOL)') $(if $(NODE),--node='$(NODE)') $(if $(CHECK),--check) $(if $(VARS),-e "$$VARS")

add-node: ready ## change: Put a host into a pool of ENV: make add-node POOL=app NODE=app3 (ADDRESS=… where hosts are real)
ifeq ($(CONTAINERS),yes)
	@containers/engine.sh up
	@containers/image.sh
endif
	@$(NODES) add $(NODE_OPTIONS) $(if $(ADDRESS),--address='$(ADDRESS)')

remove-node: ready ## change: Take a host out of its pool, alive or dead: make remove-node NODE=app3 (POOL=… where it has several)
	@$(NODES) remove $(NODE_OPTIONS)

climb: ready ## build: Go to another rung of ENV, with the data in place: make climb ENV=ladder RUNG=2-database-apart (ENV's next where none is named)
	@python -m controller.commands.climb climb --inventory $(INVENTORY) $(if $(RUNG),--rung='$(RUNG)') $(if $(CHECK),--check)

drill: ready ## break: Inject one fault under load, repair it, and print what visitors noticed: make drill DRILL=primary_killed (not on real hosts)
	@[ -n '$(DRILL)' ] || { echo "Which one? make drill DRILL=primary_killed, or another of docs/failures.md; make drills runs them all." >&2; exit 2; }
	@python molecule/support/drill_cli.py $(DRILL)

drills: ready ## break: Run all drills, as one table
	@python molecule/support/drill_cli.py

down: ready ## build: Remove ENV's containers, their network and their secrets (not real hosts)
ifneq ($(CONTAINERS),yes)
	@echo "ENV=$(ENV) has real hosts: nothing here removes them." >&2; exit 2
else
	@containers/engine.sh up
	@$(QUIET) ansible-playbook -i $(INVENTORY) containers/destroy.yml
	@rm -rf $(VAULT) $(STATE) $(if $(filter 1,$(REHEARSE)),,$(if $(RUNGS),inventories/$(ENV).yml))
	@containers/image.sh remove
	@containers/engine.sh down
	@echo "down: the containers, network and secrets of $(ENV)$(if $(filter 1,$(REHEARSE)), as it was rehearsed) are gone."
endif

.PHONY: deploy rollback releases reboot upgrade status parity drift pool logs manage jobs shell dbshell failover backup restore restore-drill smoke rebuild add-node remove-node climb
.PHONY: drill drills down

# ------------------------------------------------------------------ tests

.PHONY: test verify lint static bench lock standing
test: ready ## test: Everything: lint, static tests, the environment in containers, and a closing count; STEPS="static ladder": some of it, on what stands
	@python molecule/runner/run.py $(STEPS)

verify: ready ## test: Run tests against ENV as it stands (not real hosts): make verify ENV=production REHEARSE=1 TESTS=drills
ifneq ($(CONTAINERS),yes)
	@echo "ENV=$(ENV) has real hosts: tests break things. Rehearse it: make converge verify ENV=$(ENV) REHEARSE=1" >&2; exit 2
else
	@pytest -q --ansible-inventory=$(INVENTORY) $(addprefix molecule/tests/,$(or $(TESTS),default lb))
endif

lint: ready ## test: yamllint, ruff, shellcheck, perlcritic and ansible-lint (profile production)
	@controller/lint.sh

static: ready ## test: Run the repository's policy tests and unit tests, without containers, in a few minutes
	@pytest -q molecule/tests/policy molecule/tests/unit

bench: ready ## test: Measure this machine, verb by verb, as ratios to a fixed piece of work: PART="build verbs idle nodes ladder", or one of them
	@python molecule/support/bench.py $(PART)

lock: ready ## test: Renew .config/requirements.txt from requirements.in, and locust.txt from locust.in
	@UV_SYSTEM_CERTS=1 uv pip compile --quiet --universal --upgrade --python-version 3.11 --generate-hashes --no-header \
	  -o .config/requirements.txt .config/requirements.in
	@UV_SYSTEM_CERTS=1 uv pip compile --quiet --universal --upgrade --python-version 3.11 --generate-hashes --no-header \
	  -o .config/locust.txt .config/locust.in
