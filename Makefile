# make run    build, migrate and serve on http://localhost:8000 (PORT= for another)
# make test   build and run the tests
# make contract  what client teams rely on: documents, generated clients, Postman, /api/docs
# make fuzz   send all that the OpenAPI document allows, and what it forbids
# make http-cache  put nginx with a cache in front
# make report  bring the list of files in generation_report.md up to date
# make acceptance  figures of what holds while sources fail
# make soak   minutes of random misbehaviour of the sources
# make check  the checks beside the tests: lint, format, types, image, migrations, deployment, schema

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test bench soak acceptance contract fuzz http-cache report check lint types image-lint migrations deploy schema
.DELETE_ON_ERROR:

run: $(VENV)/.tests
	@$(BIN)/python backend/manage.py migrate --verbosity 0
	@cd backend && exec ../$(BIN)/python -m filmosphere.serve

test: $(VENV)/.tests
	$(BIN)/python -m pytest $(ARGS)

# Needs wrk, and PostgreSQL named by DATABASE_URL.
bench: $(VENV)/.tests
	cd backend && ../$(BIN)/python -m acceptance.bench

# Use the database server that DATABASE_URL names, SQLite without it.
acceptance: $(VENV)/.tests
	cd backend && ../$(BIN)/python -m acceptance.resilience $(ARGS)

soak: $(VENV)/.tests
	cd backend && ../$(BIN)/python -m acceptance.soak

# Needs node and npm; the page is tried where there is a Chromium.
contract: $(VENV)/.tests contract/node_modules/.installed contract/.venv/.installed
	$(BIN)/python -m pytest contract $(ARGS)

contract/node_modules/.installed: contract/package.json contract/package-lock.json
	cd contract && npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
	@touch $@

contract/.venv/.installed: contract/requirements.txt
	test -x contract/.venv/bin/python || $(PYTHON) -m venv contract/.venv
	contract/.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Uses the database server that DATABASE_URL names, SQLite without it; so does http-cache.
fuzz: $(VENV)/.tests .venv-fuzz/.installed
	cd backend && ../$(BIN)/python -m acceptance.fuzz

.venv-fuzz/.installed: requirements/fuzz.txt
	test -x .venv-fuzz/bin/python || $(PYTHON) -m venv .venv-fuzz
	.venv-fuzz/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Needs nginx; without it there is nothing to see, unless CI is true.
http-cache: $(VENV)/.tests
	cd backend && ../$(BIN)/python -m acceptance.http_cache

# Lines for new files in generation_report.md, none for those that are gone.
report:
	$(PYTHON) .ci/file_list.py

check: lint types image-lint migrations deploy schema

lint: $(VENV)/.checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.checks
	$(BIN)/mypy

image-lint: $(VENV)/.checks
	$(BIN)/hadolint Dockerfile

# The settings that stand for a production start in the checks below; no value is a real one.
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
