# make run    build, migrate and serve on http://localhost:8000 (PORT= for another)
# make test   build and run the tests
# make contract  test documents, generated clients, the Postman collection, /api/docs and metrics
# make fuzz   send requests that the OpenAPI document allows and requests that it forbids
# make http-cache  test behind nginx as an HTTP cache
# make audit  look for known vulnerabilities and overdue updates
# make image-test  build the image and walk through it, read-only and as an ordinary user
# make smoke  run an installation with nginx, PgBouncer, a replica and Redis, and let its parts fail
# make alerts  test the alerts with promtool
# make dashboard-picture  plot the dashboard from a load test
# make settings  write .env.example and docs/settings.md from the table of settings
# make lock   write requirements/runtime.lock, which the image installs
# make sbom   write sbom.json, the components of the image (CycloneDX)
# make report  update the list of files in generation_report.md
# make bench  measure the service, its limits and its neighbours, and write docs/performance.md (80 minutes)
# make bench-quick  compare a few ratios with those of docs/performance.md
# make acceptance  measure the behaviour while sources fail
# make soak   check rules while sources fail at random
# make economy  measure upstream calls and waiting times under a rate limit
# make capacity  compute what a number of films and readers needs; ARGS=--help lists the numbers to enter
# make capacity-plots  the same, and draw the figures of docs/operations/scaling.md
# make capacity-check  compare the predictions with a service that runs
# make start-up  measure how long a start and commands take, and what they import
# make trace  print the path of a cold film and of a hit through the code
# make mutants  measure how many small faults in the code the fast tests detect
# make check  all checks except tests: lint, format, types, image, Kubernetes, migrations, deployment, schema

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test bench bench-quick bench-servers soak economy start-up capacity capacity-plots capacity-check trace mutants acceptance contract fuzz http-cache audit alerts dashboard-picture image-test smoke lock sbom report settings check lint types image-lint kubernetes migrations deploy schema
.DELETE_ON_ERROR:

run: $(VENV)/.tests
	@cd backend && exec ../$(BIN)/python -m filmosphere.serve --migrate

test: $(VENV)/.tests
	$(BIN)/python -m pytest $(ARGS)

# Uses the servers that DATABASE_URL and REDIS_URL name, else those of .ci/services. ARGS="--memory-minutes 5"
# for 20 minutes in place of 80, ARGS="--only cold" for one part, ARGS=--help for all options.
bench: bench-servers .venv-benchmarks/.installed .venv-plots/.installed
	PYTHONPATH=backend $(BIN)/python -m tools.bench $(ARGS)

bench-quick: bench-servers
	PYTHONPATH=backend $(BIN)/python -m tools.bench --quick $(ARGS)

bench-servers: $(VENV)/.tests
	@test -n "$$DATABASE_URL" || .ci/services
	@command -v wrk >/dev/null || .ci/tools

# These targets use the database server that DATABASE_URL names, SQLite by default.
acceptance: $(VENV)/.tests
	PYTHONPATH=backend $(BIN)/python -m tools.resilience $(ARGS)

soak: $(VENV)/.tests
	PYTHONPATH=backend $(BIN)/python -m tools.soak

economy: $(VENV)/.tests
	PYTHONPATH=backend $(BIN)/python -m tools.economy $(ARGS)

start-up: $(VENV)/.tests
	@PYTHONPATH=backend $(BIN)/python -m tools.start_up

capacity: $(VENV)/.tests
	@PYTHONPATH=backend $(BIN)/python -m tools.capacity $(ARGS)

capacity-plots: .venv-plots/.installed
	@PYTHONPATH=backend .venv-plots/bin/python -m tools.capacity --plots docs/operations $(ARGS)

# Takes about five minutes.
capacity-check: $(VENV)/.tests
	PYTHONPATH=backend $(BIN)/python -m tools.capacity_check

# ARGS=--short prints less.
trace: $(VENV)/.tests
	@$(BIN)/python -m tools.trace $(ARGS)

# Takes about half an hour; ARGS="--count 20 --only films" for less.
mutants: $(VENV)/.tests
	$(BIN)/python -m tools.mutants $(ARGS)

# Needs node and npm. The documentation page is tested if Chromium is installed, and metrics are checked
# if promtool is, or CI is true.
contract: $(VENV)/.tests contract/node_modules/.installed contract/.venv/.installed
	$(BIN)/python -m pytest contract $(ARGS)

contract/node_modules/.installed: contract/package.json contract/package-lock.json
	cd contract && npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
	@touch $@

contract/.venv/.installed: contract/requirements.txt
	test -x contract/.venv/bin/python || $(PYTHON) -m venv contract/.venv
	contract/.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# fuzz and http-cache use the database server that DATABASE_URL names, SQLite by default.
fuzz: $(VENV)/.tests .venv-fuzz/.installed
	PYTHONPATH=backend $(BIN)/python -m tools.fuzz

# Needs nginx. Without it, the test is skipped, unless CI is true.
http-cache: $(VENV)/.tests
	PYTHONPATH=backend $(BIN)/python -m tools.http_cache

# Asks the registries. A registry that cannot be reached is reported, and is no failure.
audit: $(VENV)/.checks .venv-audit/.installed
	.venv-audit/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@$(BIN)/python -m tools.audit

# Needs Podman, runc, mmdebstrap, the programs of PostgreSQL, and root. Without them, the test is skipped.
image-test: $(VENV)/.tests
	PYTHONPATH=backend $(BIN)/python -m tools.image_test

# Takes six minutes. Needs Prometheus. Uses the servers that DATABASE_URL and REDIS_URL name.
dashboard-picture: $(VENV)/.tests requirements/plots.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/plots.txt
	PYTHONPATH=backend $(BIN)/python -m tools.dashboard_picture

# Needs nginx, PgBouncer, Redis and the programs of PostgreSQL. Without them, the test is skipped, unless CI
# is true.
smoke: $(VENV)/.tests
	PYTHONPATH=backend $(BIN)/python -m tools.smoke

settings: $(VENV)/.tests
	PYTHONPATH=backend $(BIN)/python -m tools.settings_documents

# Keeps the versions of constraints.txt and adds the hash of each file.
lock: $(VENV)/.checks
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-python-downloads --generate-hashes \
		--no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		--output-file requirements/runtime.lock requirements/runtime.txt

# The schema of CycloneDX is checked before it is written.
sbom: .venv-locked/.installed .venv-sbom/.installed
	.venv-sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application \
		--output-reproducible --validate --output-file sbom.json .venv-locked/bin/python

# The environments of tools that are kept apart from the tests.
.venv-%/.installed: requirements/%.txt
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# The dependencies of the image and nothing else.
.venv-locked/.installed: requirements/runtime.lock | $(VENV)/.tests
	$(PYTHON) -m venv --clear --without-pip .venv-locked
	$(BIN)/python -m pip --python .venv-locked/bin/python install --quiet --disable-pip-version-check \
		--require-hashes -r $<
	@touch $@

# Adds lines for new files and removes those of deleted files.
report:
	$(PYTHON) .ci/file_list.py

check: lint types image-lint alerts kubernetes migrations deploy schema

lint: $(VENV)/.checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.checks
	$(BIN)/mypy

image-lint: $(VENV)/.checks
	$(BIN)/hadolint Dockerfile

MANIFESTS := $(filter-out %/kustomization.yaml,$(wildcard deploy/kubernetes/*.yaml))

# The oldest and the newest version that the manifests are for. Each line of output is a fault: of a
# kind that a version does not have, the validator only warns.
kubernetes: $(VENV)/.tests
	! $(BIN)/kubernetes-validate -k 1.27 -k 1.37 --strict --quiet $(MANIFESTS) 2>&1 | grep .

# promtool comes with Prometheus.
alerts:
	@if command -v promtool >/dev/null; then cd docs/operations \
		&& promtool check rules alerts.yml && promtool test rules alerts_test.yml; \
	else echo "promtool is not installed: the alerts are not tested"; fi

# Settings of a production start for the checks below; no value is real.
PRODUCTION := ENV_FILE=/dev/null DJANGO_DEBUG=False DJANGO_ALLOWED_HOSTS=films.example \
	DJANGO_SECRET_KEY=only-for-the-deployment-check-0123456789-abcdefghijklmnopqrstuvwxyz \
	IMDBAPI_BASE=https://api.imdbapi.dev

migrations: $(VENV)/.tests
	$(PRODUCTION) $(BIN)/python backend/manage.py makemigrations --check --dry-run

deploy: $(VENV)/.tests
	$(PRODUCTION) $(BIN)/python backend/manage.py check --deploy --fail-level WARNING

schema: $(VENV)/.tests
	$(PRODUCTION) $(BIN)/python backend/manage.py spectacular --validate --fail-on-warn \
		| diff docs/openapi.yaml -

$(VENV)/.tests: requirements.txt requirements/runtime.txt requirements/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.checks: $(VENV)/.tests requirements/checks.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/checks.txt
	@touch $@
