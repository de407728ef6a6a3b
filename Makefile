# Every target does its own set-up, and only what is missing of it. `make help` lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv/bin
COMPILE := $(VENV)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet
SCALE ?= $(or $(WORKSHOP_SCALE),full)
BESIDE := -n 2 --no-loadscope-reorder  # two tests at a time; tests/conftest.py says which ones share a process

.PHONY: help setup run lab test faults doctor lint lock sums store clean cluster-up cluster-down cluster-test benchmark learner progress site slides timing bundle bundle-test check-version audit sbom
.DEFAULT_GOAL := help

help: ## this list of what make can do
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-14s %s\n", $$1, $$2}'

setup: ## virtual environment, locked packages, Java artefacts (first time: minutes; later: a second)
	@command -v "$(PYTHON)" > /dev/null || { echo "Python 3.11 is needed and $(or $(PYTHON),none) was not found:" \
	    "install it, or name it: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -m tools.setup
	@$(VENV)/python -m tools.archive_classes

run: setup ## execute every lesson on all the data and build the pages (SCALE=tiny: a first look; LESSONS="04 06": these)
	@WORKSHOP_SCALE=$(SCALE) $(VENV)/python -m tools.doctor
	@WORKSHOP_SCALE=$(SCALE) $(VENV)/python -m tools.lessons $(LESSONS)

lab: setup ## open JupyterLab on your copies of the lessons; the full lessons lie beside them
	@$(VENV)/python -m tools.learner; $(VENV)/jupyter lab --ip 127.0.0.1 --notebook-dir . \
	    --LabApp.default_url=/lab/tree/learner --MappingKernelManager.transport_encryption=auto

site: setup ## pages of all lessons as they are stored, with search and glossary, in build/site
	@$(VENV)/python -m tools.pages

slides: setup ## a deck of slides for each lesson, in build/slides
	@$(VENV)/python -m tools.slides

progress: setup ## which exercises of the learner copies are done
	@$(VENV)/python -m tools.progress

lint: setup ## what ruff and mypy say about the code
	@$(VENV)/ruff check . && $(VENV)/ruff format --check . && $(VENV)/mypy

test: lint ## run all tests but bundle-test, cluster-test and the two clones of faults (about 25 minutes on two cores)
	@$(VENV)/python -m pytest $(BESIDE) -m "not bundle and not neighbours and not containers"

faults: setup ## kill everything that a lesson starts, three times each at random moments (about an hour)
	@WORKSHOP_FAULT_REPEATS=$${WORKSHOP_FAULT_REPEATS:-3} WORKSHOP_FAULT_SECONDS=$${WORKSHOP_FAULT_SECONDS:-60} \
	    $(VENV)/python -m pytest $(BESIDE) -m faults

bundle-test: setup ## install from the bundle with the network switched off (downloads 1 GB of packages the first time)
	@$(VENV)/python -m pytest -m bundle

doctor: setup ## check this machine: Python, Java, memory, disk, ports, artefacts, data
	@$(VENV)/python -m tools.doctor

cluster-up: ## the cluster in containers: Spark, Ignite, Kafka and the Lab (GPU=1: with the GPU containers)
	@"$(PYTHON)" -m tools.compose up $(if $(GPU),--gpu)

cluster-down: ## stop the containers; what they keep stays (VOLUMES=1: it goes too)
	@"$(PYTHON)" -m tools.compose down $(if $(VOLUMES),--volumes)

cluster-test: setup ## build, start, test and stop the cluster in containers (about ten minutes)
	@$(VENV)/python -m pytest -v -s -m containers

benchmark: setup ## compare local, Standalone, YARN and Kubernetes (by KUBECONFIG), then deploy the service there (an hour and a quarter)
	@$(VENV)/python -m benchmark && $(VENV)/python -m benchmark.kill && $(VENV)/python -m benchmark.deploy

lock: setup ## for maintainers: write requirements.txt, -build.txt and -connect.txt from pyproject.toml
	@$(COMPILE) pyproject.toml --extra dev --extra site --output-file requirements.txt
	@$(COMPILE) --group build --output-file requirements-build.txt
	@$(COMPILE) --group connect --output-file requirements-connect.txt

sums: setup ## for maintainers: write the checksums of the Java artefacts again, after a version has moved
	@$(VENV)/python -m tools.java_sums

store: setup ## for maintainers: run every lesson at full scale, keep the outputs in notebooks/, write pictures and minutes
	@$(VENV)/python -m tools.lessons --scale full --store && $(VENV)/python -m tools.pictures
	@$(VENV)/python -m tools.timing

learner: setup ## only write your copies, as lab does: without solutions; what you have worked in stays
	@$(VENV)/python -m tools.learner

timing: setup ## write the table of minutes from the last full run (RUNS=folder: from other executed copies)
	@$(VENV)/python -m tools.timing $(RUNS)

bundle: setup ## one archive in build/bundle for rooms without a network: lessons, data, packages, jars
	@$(VENV)/python -m tools.bundle

check-version: setup ## try a version in a copy and say what breaks (PACKAGE=name==version)
	@$(VENV)/python -m tools.check_version "$(PACKAGE)"

audit: setup ## look for known vulnerabilities of the locked packages and jars (asks osv.dev; ADVISORIES=folder: looks there)
	@$(VENV)/python -m tools.audit $(if $(ADVISORIES),"$(ADVISORIES)")

sbom: setup ## write build/sbom.cdx.json (CycloneDX): every package and jar with its version and SHA-256
	@$(VENV)/python -m tools.sbom

clean: ## delete build/ with everything generated (your progress, too)
	@rm -rf build
