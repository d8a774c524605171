# The digest fixes the base image; Dependabot replaces tag and digest together.
FROM python:3.12.14-slim-trixie@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea AS base

# Everything that is copied into the image is made here.
FROM base AS build

# Dependencies in a layer of their own: rebuilt when the lock changes, not with the code. They go into an
# environment without pip; pip compiles them.
COPY requirements/runtime.lock /tmp/
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install \
    --no-cache-dir --disable-pip-version-check --only-binary :all: --require-hashes -r /tmp/runtime.lock

# .dockerignore lets the service in and nothing else: no sandbox, no tests, no .env.
WORKDIR /app
COPY backend/ backend/
COPY docs/API.md docs/API.md
COPY deploy/healthcheck healthcheck
# Readable whatever the umask of the checkout.
RUN chmod -R a+rX /app \
    && python -m compileall -q backend

FROM base

# Nothing is installed after this.
RUN rm -rf /usr/local/bin/pip* \
    /usr/local/lib/python3.*/ensurepip \
    /usr/local/lib/python3.*/site-packages/pip* \
    # An ordinary user: it owns no code, and writes no files while the database is PostgreSQL.
    && useradd --uid 10001 --no-log-init --no-create-home --shell /usr/sbin/nologin filmosphere \
    # Holds the database where that is SQLite.
    && install --directory --owner=filmosphere --group=filmosphere /app/var

COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app

WORKDIR /app/backend
USER 10001:10001

# What was built: --build-arg REVISION="$(git rev-parse --short HEAD)".
ARG REVISION=unknown
ENV APP_REVISION=$REVISION \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=8000
EXPOSE 8000

HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["bash", "/app/healthcheck"]

# As `make run` does. Without a shell in between, so that SIGTERM reaches the server, which also does
# what the first process of a container has to do.
CMD ["python", "-m", "filmosphere.serve"]
